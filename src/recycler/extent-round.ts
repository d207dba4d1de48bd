/** One round of moving compressed extents: the two barriers of design section 4, for bytes instead of clusters. */
import { SECTOR } from '../device/block-device.js';
import { QcowError, hex } from '../errors.js';
import { extentOffset, retargetExtent } from '../format/compressed.js';
import { HI_COMPRESSED } from '../format/entries.js';
import { viewOf } from '../format/words.js';
import type { Extents } from '../image/extents.js';
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { inParallel } from './in-parallel.js';
import type { Recycler } from './recycler.js';
import { changedSpans } from './reference-updater.js';
import type { Volume } from './volume.js';

/** Bytes of one copy, and copies under way. */
const PIECE_BYTES = 1 << 20;
const WORKERS = 4;

export interface ExtentMove {
  extent: number;
  /** Host offset that it gets; at the same place within a sector as before. */
  destination: number;
}

/**
 * Moves the extents, ascending by source and by destination, into clusters that are junk, or into sectors of
 * compressed clusters that no extent touches. Their sources are junk afterwards where nothing else is in them.
 */
export async function moveExtents(
  recycler: Recycler,
  extents: Extents,
  moves: readonly ExtentMove[],
  onCopied: (bytes: number) => void,
): Promise<void> {
  const { volume } = recycler;
  const { clusters, map, image } = volume;
  const arriving = pathsByCluster(volume, extents, moves, ({ destination }) => destination);
  const leaving = pathsByCluster(volume, extents, moves, ({ extent }) => extents.offsets[extent]!);
  const fresh = [...arriving.keys()].filter((cluster) => map.is(cluster, State.junk));
  map.transition(fresh, State.junk, State.copy);
  try {
    // Raised before anything refers to them (I3); what leaves is counted until barrier B.
    for (const [cluster, paths] of arriving) image.refcounts.set(cluster, clusters.refs[cluster]! + paths);
    await recycler.writeCounts();
    await copyPieces(volume, extents, moves, onCopied);
  } catch (error) {
    map.transition(fresh, State.copy, State.junk);
    for (const cluster of arriving.keys()) image.refcounts.set(cluster, clusters.refs[cluster]!);
    throw error;
  }
  await recycler.flush();

  await rewriteDescriptors(recycler, extents, moves);
  for (const [cluster, paths] of arriving) {
    clusters.refs[cluster]! += paths;
    clusters.setKind(cluster, Kind.compressed);
  }
  map.transition(fresh, State.copy, State.live);
  const emptied: number[] = [];
  for (const [cluster, paths] of leaving) {
    clusters.refs[cluster]! -= paths;
    if (clusters.refs[cluster] === 0) emptied.push(cluster);
  }
  recycler.leave(emptied);
  await recycler.flush();
  for (const cluster of leaving.keys()) image.refcounts.set(cluster, clusters.refs[cluster]!);
}

/** How many paths the extents add to each cluster that they touch at the place that `placeOf` tells. */
function pathsByCluster(
  { clusterBytes }: Volume,
  extents: Extents,
  moves: readonly ExtentMove[],
  placeOf: (move: ExtentMove) => number,
): Map<number, number> {
  const paths = new Map<number, number>();
  for (const move of moves) {
    const place = placeOf(move);
    const last = Math.floor((place + extents.lengths[move.extent]! - 1) / clusterBytes);
    for (let cluster = Math.floor(place / clusterBytes); cluster <= last; cluster++) {
      paths.set(cluster, (paths.get(cluster) ?? 0) + extents.paths[move.extent]!);
    }
  }
  return paths;
}

/**
 * Whole sectors, neighbours in one piece. Where two extents share a sector both copies of it are the same, so
 * that it does not matter which comes last, nor that the one before may be in use already.
 */
async function copyPieces(
  { device }: Volume,
  extents: Extents,
  moves: readonly ExtentMove[],
  onCopied: (bytes: number) => void,
): Promise<void> {
  const pieces: { from: number; to: number; lengthBytes: number }[] = [];
  for (const { extent, destination } of moves) {
    const from = extents.sectorStart(extent);
    const to = destination - (destination % SECTOR);
    const end = extents.end(extent);
    const last = pieces.at(-1);
    const joins =
      last !== undefined &&
      to - from === last.to - last.from &&
      from <= last.from + last.lengthBytes &&
      end - last.from <= PIECE_BYTES;
    if (joins) last.lengthBytes = Math.max(last.lengthBytes, end - last.from);
    else pieces.push({ from, to, lengthBytes: end - from });
  }
  // An extent is not cut, however long it is.
  const longest = pieces.reduce((most, { lengthBytes }) => Math.max(most, lengthBytes), 0);
  await inParallel(pieces, WORKERS, longest, async ({ from, to, lengthBytes }, buffer) => {
    const bytes = buffer.subarray(0, lengthBytes);
    await device.read(bytes, from);
    await device.write(bytes, to);
    onCopied(lengthBytes);
  });
}

/** Every descriptor that names a moved extent: the old value verified, the changed sectors written. */
async function rewriteDescriptors(
  recycler: Recycler,
  extents: Extents,
  moves: readonly ExtentMove[],
): Promise<void> {
  const { device, clusterBytes, image } = recycler.volume;
  const { clusterBits } = image.header;
  const changes: { slot: number; move: ExtentMove }[] = [];
  for (const move of moves) {
    for (let i = extents.slotsFrom[move.extent]!; i < extents.slotsFrom[move.extent + 1]!; i++) {
      changes.push({ slot: extents.slots[i]!, move });
    }
  }
  changes.sort((a, b) => a.slot - b.slot);
  const tableOf = (slot: number) => Math.floor(slot / clusterBytes);
  for (let first = 0, next = 0; first < changes.length; first = next) {
    while (next < changes.length && tableOf(changes[next]!.slot) === tableOf(changes[first]!.slot)) next++;
    const group = changes.slice(first, next);
    const start = group[0]!.slot - (group[0]!.slot % SECTOR);
    const bytes = new Uint8Array(Math.ceil((group.at(-1)!.slot + 8 - start) / SECTOR) * SECTOR);
    await device.read(bytes, start);
    const view = viewOf(bytes);
    for (const { slot, move } of group) {
      requireDescriptor(view, slot - start, slot, extents.offsets[move.extent]!, clusterBits);
      retargetExtent(view, slot - start, move.destination, clusterBits);
    }
    for (const [from, to] of changedSpans(group.map(({ slot }) => slot - start))) {
      await recycler.writeReferences(bytes.subarray(from, to), start + from);
    }
    recycler.referencesUpdated += group.length;
  }
}

function requireDescriptor(
  view: DataView,
  at: number,
  slot: number,
  offset: number,
  clusterBits: number,
): void {
  const hi = view.getUint32(at);
  const present = extentOffset(hi, view.getUint32(at + 4), clusterBits);
  if ((hi & HI_COMPRESSED) !== 0 && present === offset) return;
  throw new QcowError(
    'CORRUPT',
    `a descriptor changed under us: it names ${hex(present)}, not ${hex(offset)}`,
    {
      where: `host offset ${hex(slot)}`,
      hint: 'another program writes to this image; nothing was written to this table',
    },
  );
}
