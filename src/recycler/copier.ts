/**
 * Copies what moves: data as it is, tables with their entries already substituted (design 4.4, "copy").
 * Locks: shared on the source, then exclusive on the destination (C24).
 */
import { type BlockDevice, type ByteRange, SECTOR } from '../device/block-device.js';
import { Kind } from '../image/host-clusters.js';
import {
  substituteBitmaps,
  substituteEntries,
  substituteL2,
  substituteSnapshots,
} from '../image/substitute.js';
import { viewOf, writeWord } from '../format/words.js';
import { inParallel } from './in-parallel.js';
import type { RangeLocks } from './locks.js';
import { type Extent, MoveState, type Moves } from './moves.js';
import type { Run, Volume } from './volume.js';
import { State } from './cluster-map.js';
import { EVERYTHING, SourceData } from './source-data.js';
import { AS_IT_IS, type Transfer } from './transfer.js';
import { makeHole } from './zeroes.js';

/**
 * Neighbours are copied in pieces of this much. As many at once as Node has threads for: reads of some go on while
 * others are written, and more buffers would only fall out of the processor's cache (docs/performance.md).
 */
const PIECE_BYTES = 1 << 20;
const WORKERS = 4;

/** Beside clients, whose requests need the same threads and processors. */
const LIVE_PIECE_BYTES = 256 << 10;
const LIVE_WORKERS = 1;

export interface CopyHooks {
  onCopied: (bytes: number) => void;
  /** Awaited before the locks of a piece; false: its moves stay in state copying. */
  mayCopy?: ((bytes: number) => Promise<boolean>) | undefined;
  /** What lies where may change until a piece is locked: then holes are looked for in each piece, under its lock. */
  hasClients: boolean;
}

function clustersPerPiece({ hasClients }: CopyHooks, clusterBytes: number): number {
  return Math.max(1, Math.floor((hasClients ? LIVE_PIECE_BYTES : PIECE_BYTES) / clusterBytes));
}

function workersFor({ hasClients }: CopyHooks): number {
  return hasClients ? LIVE_WORKERS : WORKERS;
}

/** Copies every move in state copying. The first failure ends it; the caller cancels what is unfinished (C27). */
export async function copyMoves(
  volume: Volume,
  locks: RangeLocks,
  moves: Moves,
  hooks: CopyHooks,
): Promise<void> {
  const { clusters, clusterBytes } = volume;
  const perPiece = clustersPerPiece(hooks, clusterBytes);
  const kindOf = (source: number) => clusters.kind(source);

  await copyContents(volume, locks, moves, Kind.data, volume.transfer, hooks);
  // Never encrypted, not even with LUKS.
  await copyContents(volume, locks, moves, Kind.bitmapData, AS_IT_IS, hooks);

  const l2Pieces = moves.extents(perPiece, (source) => kindOf(source) === Kind.l2Table);
  await inParallel(l2Pieces, workersFor(hooks), perPiece * clusterBytes, (extent, buffer) =>
    copyExtent(volume, locks, moves, extent, hooks, async (from, to, length) => {
      const bytes = buffer.subarray(0, length);
      await volume.device.read(bytes, from);
      substituteL2(bytes, volume.image.header, moves);
      await volume.device.write(bytes, to);
    }),
  );

  for (const extent of [...moves.extents(1, (source) => kindOf(source) === Kind.refcountBlock)]) {
    await copyExtent(volume, locks, moves, extent, hooks, async (from, to) => {
      const index = volume.image.refcounts.indexOfBlock(from);
      // Not a copy of the disk but the counts in memory: those that this round raised are in it (design 5).
      await volume.device.write(volume.image.refcounts.encodeBlock(index), to);
    });
  }
  for (const run of volume.runs()) {
    const first = moves.find(run.first);
    if (first < 0 || moves.state(first) !== MoveState.copying) continue;
    const extent = { first, source: run.first, destination: moves.destinations[first]!, count: run.count };
    await copyExtent(volume, locks, moves, extent, hooks, (from, to) =>
      copyRun(volume, moves, run, from, to),
    );
  }
}

/** Copies clusters of `kind`, neighbours together; `transfer` says what becomes of their bytes on the way. */
async function copyContents(
  volume: Volume,
  locks: RangeLocks,
  moves: Moves,
  kind: Kind,
  transfer: Transfer,
  hooks: CopyHooks,
): Promise<void> {
  const { clusters, clusterBytes, device } = volume;
  const perPiece = clustersPerPiece(hooks, clusterBytes);
  const pieces = [...moves.extents(perPiece, (source) => clusters.kind(source) === kind)];
  // What the host shares may be a hole as well, and stays one.
  const mayShare = volume.mayShare(transfer);
  let known: Pick<SourceData, 'within'> | null = null;
  const findData = (sources: readonly Extent[]) =>
    transfer.keepsHoles ? new SourceData(device, stretchesOf(sources, clusterBytes)) : EVERYTHING;
  // Asked before the first write, where it is known that it will be needed.
  if (!mayShare && !hooks.hasClients) known = findData(pieces);
  await inParallel(pieces, workersFor(hooks), perPiece * clusterBytes, (extent, buffer) =>
    copyExtent(volume, locks, moves, extent, hooks, async (from, to, length) => {
      if (mayShare && (await device.share(from, to, length))) return;
      if (!hooks.hasClients) known ??= findData(pieces);
      await copyData(device, known ?? findData([extent]), transfer, from, to, buffer.subarray(0, length));
    }),
  );
}

function stretchesOf(pieces: readonly Extent[], clusterBytes: number): ByteRange[] {
  return pieces.map(({ source, count }) => ({
    start: source * clusterBytes,
    end: (source + count) * clusterBytes,
  }));
}

/** Copies those moves of `extent` that are still wanted once both locks are held (C25). */
async function copyExtent(
  volume: Volume,
  locks: RangeLocks,
  moves: Moves,
  extent: Extent,
  hooks: CopyHooks,
  copy: (from: number, to: number, lengthBytes: number) => Promise<void>,
): Promise<void> {
  const { clusterBytes, map } = volume;
  if (hooks.mayCopy !== undefined && !(await hooks.mayCopy(extent.count * clusterBytes))) return;
  const releaseSource = await locks.shared(extent.source, extent.count);
  const releaseDestination = await locks.exclusive(extent.destination, extent.count);
  try {
    for (let start = 0; start < extent.count;) {
      let end = start;
      while (end < extent.count && moves.state(extent.first + end) === MoveState.copying) end++;
      if (end > start) {
        const length = (end - start) * clusterBytes;
        await copy(
          (extent.source + start) * clusterBytes,
          (extent.destination + start) * clusterBytes,
          length,
        );
        for (let i = start; i < end; i++) {
          // Cancelled while the copy ran: its destination may be anything by now.
          if (moves.state(extent.first + i) !== MoveState.copying) continue;
          if (!map.is(extent.destination + i, State.copy))
            throw new Error('the destination of a copy changed its state');
          moves.advance(extent.first + i, MoveState.copied);
        }
        hooks.onCopied(length);
      }
      start = Math.max(end, start + 1);
    }
  } finally {
    releaseDestination();
    releaseSource();
  }
}

/**
 * A source that is a hole of the host file stays one (I10), if zeroes are the same there; what lies beyond the end of
 * the file is zeroes.
 */
async function copyData(
  device: BlockDevice,
  data: Pick<SourceData, 'within'>,
  transfer: Transfer,
  from: number,
  to: number,
  buffer: Uint8Array,
): Promise<void> {
  const length = buffer.length;
  for (let at = 0; at < length;) {
    const extent = data.within(from + at, from + length);
    const start = extent === null ? length : extent.start - from;
    if (start > at) await makeHole(device, to + at, start - at);
    if (extent === null) return;
    const end = Math.min(length, Math.ceil((extent.end - from) / SECTOR) * SECTOR);
    const bytes = buffer.subarray(start, end);
    await device.read(bytes, from + start);
    transfer.transform(bytes, from + start, to + start);
    await device.write(bytes, to + start);
    at = end;
  }
}

async function copyRun(volume: Volume, moves: Moves, run: Run, from: number, to: number): Promise<void> {
  const { device, clusterBytes, image } = volume;
  if (run.kind === Kind.refcountTable) {
    const bytes = image.refcounts.encodeTable(run.count);
    const view = viewOf(bytes);
    for (let at = 0; at < bytes.length; at += 8) {
      const block = image.refcounts.blocks[at / 8] ?? 0;
      const destination = block === 0 ? -1 : moves.destinationOf(block / clusterBytes);
      if (destination >= 0) writeWord(view, at, destination * clusterBytes);
    }
    await device.write(bytes, to);
  } else if (run.kind === Kind.snapshotTable) {
    const bytes = new Uint8Array(run.count * clusterBytes);
    await device.read(bytes, from);
    substituteSnapshots(bytes, image.snapshots, clusterBytes, moves);
    await device.write(bytes, to);
  } else if (run.kind === Kind.bitmapDirectory) {
    const bytes = new Uint8Array(run.count * clusterBytes);
    await device.read(bytes, from);
    substituteBitmaps(bytes, image.bitmaps?.entries ?? [], clusterBytes, moves);
    await device.write(bytes, to);
  } else {
    // What follows the entries in the last cluster is undefined: copied, not interpreted (hazard 4.8).
    const total = run.count * clusterBytes;
    const buffer = new Uint8Array(Math.min(total, PIECE_BYTES));
    for (let at = 0; at < total; at += PIECE_BYTES) {
      const bytes = buffer.subarray(0, Math.min(PIECE_BYTES, total - at));
      await device.read(bytes, from + at);
      substituteEntries(bytes.subarray(0, Math.max(0, run.lengthBytes - at)), clusterBytes, moves);
      await device.write(bytes, to + at);
    }
  }
}
