/** One round of moving compressed extents: the two barriers of design section 4, for bytes instead of clusters. */
import { SECTOR } from '../device/block-device.js';
import { QcowError, hex } from '../errors.js';
import { extentOffset, retargetExtent } from '../format/compressed.js';
import { HI_COMPRESSED } from '../format/entries.js';
import { viewOf } from '../format/words.js';
import { clusterOf, lastClusterOf } from '../image/extents.js';
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { type ExtentMoves, PIECE_BYTES, piecesOf } from './extent-pieces.js';
import { inParallel } from './in-parallel.js';
import type { Recycler } from './recycler.js';
import { changedSpans } from './reference-updater.js';
import type { Volume } from './volume.js';

/** Copies under way. */
const WORKERS = 4;

/**
 * Moves the extents into clusters that are junk, or into sectors of compressed clusters that no extent touches. Their
 * sources are junk afterwards where nothing else is in them.
 */
export async function moveExtents(
  recycler: Recycler,
  moves: ExtentMoves,
  onCopied: (bytes: number) => void,
): Promise<void> {
  const { volume } = recycler;
  const { clusters, map, image } = volume;
  const arriving = pathsByCluster(volume, moves, moves.to);
  const leaving = pathsByCluster(volume, moves, moves.from);
  const fresh = [...arriving.keys()].filter((cluster) => map.is(cluster, State.junk));
  map.transition(fresh, State.junk, State.copy);
  try {
    // Raised before anything refers to them (I3); what leaves is counted until barrier B.
    for (const [cluster, paths] of arriving) image.refcounts.set(cluster, clusters.refs[cluster]! + paths);
    await recycler.writeCounts();
    await copyPieces(volume, moves, onCopied);
  } catch (error) {
    map.transition(fresh, State.copy, State.junk);
    for (const cluster of arriving.keys()) image.refcounts.set(cluster, clusters.refs[cluster]!);
    throw error;
  }
  await recycler.flush();

  await rewriteDescriptors(recycler, moves);
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

/** How many paths the extents add to each cluster that they touch at these places. */
function pathsByCluster(
  { clusterBytes }: Volume,
  { extents, moving }: ExtentMoves,
  places: Float64Array,
): Map<number, number> {
  const paths = new Map<number, number>();
  for (const extent of moving) {
    const place = places[extent]!;
    const last = lastClusterOf(place, extents.lengths[extent]!, clusterBytes);
    for (let cluster = clusterOf(place, clusterBytes); cluster <= last; cluster++) {
      paths.set(cluster, (paths.get(cluster) ?? 0) + extents.paths[extent]!);
    }
  }
  return paths;
}

async function copyPieces(
  { device }: Volume,
  moves: ExtentMoves,
  onCopied: (bytes: number) => void,
): Promise<void> {
  const longest = Math.max(PIECE_BYTES, moves.extents.longest + SECTOR);
  await inParallel(piecesOf(moves), WORKERS, longest, async ({ from, to, lengthBytes }, buffer) => {
    const bytes = buffer.subarray(0, lengthBytes);
    await device.read(bytes, from);
    await device.write(bytes, to);
    onCopied(lengthBytes);
  });
}

/** Every descriptor that names a moved extent: the old value verified, the changed sectors written. */
async function rewriteDescriptors(recycler: Recycler, moves: ExtentMoves): Promise<void> {
  const { extents, from, to } = moves;
  const { device, clusterBytes, image } = recycler.volume;
  const { clusterBits } = image.header;
  const { slots, owners } = slotsOf(moves);
  const tableOf = (at: number) => Math.floor(extents.slots[slots[at]!]! / clusterBytes);
  for (let first = 0, next = 0; first < slots.length; first = next) {
    while (next < slots.length && tableOf(next) === tableOf(first)) next++;
    const positions = [...slots.subarray(first, next)].map((slot) => extents.slots[slot]!);
    const start = positions[0]! - (positions[0]! % SECTOR);
    const bytes = new Uint8Array(Math.ceil((positions.at(-1)! + 8 - start) / SECTOR) * SECTOR);
    await device.read(bytes, start);
    const view = viewOf(bytes);
    for (const [i, slot] of positions.entries()) {
      const extent = owners(slots[first + i]!);
      requireDescriptor(view, slot - start, slot, from[extent]!, clusterBits);
      retargetExtent(view, slot - start, to[extent]!, clusterBits);
    }
    for (const [begin, end] of changedSpans(positions.map((slot) => slot - start))) {
      await recycler.writeReferences(bytes.subarray(begin, end), start + begin);
    }
    recycler.referencesUpdated += positions.length;
  }
}

/** Indices of the slots of all that move, in the order in which they lie in the file, and whose each of them is. */
function slotsOf({ extents, moving }: ExtentMoves) {
  const { slotsFrom } = extents;
  let count = 0;
  for (const extent of moving) count += slotsFrom[extent + 1]! - slotsFrom[extent]!;
  const slots = new Uint32Array(count);
  let length = 0;
  for (const extent of moving) {
    for (let slot = slotsFrom[extent]!; slot < slotsFrom[extent + 1]!; slot++) slots[length++] = slot;
  }
  slots.sort((a, b) => extents.slots[a]! - extents.slots[b]!);
  const owners = (slot: number) => {
    let low = 0;
    let high = moving.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (slotsFrom[moving[middle]!]! <= slot) low = middle;
      else high = middle - 1;
    }
    return moving[low]!;
  };
  return { slots, owners };
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
