/**
 * Compressed extents squeezed into the fewest clusters, one behind the other in one stretch below the goal
 * (design 6). The stretch is filled window by window; what stands in a window goes to the end of the file first.
 */
import { greatestCount } from '../format/refcounts.js';
import { type Extents, collectExtents } from '../image/extents.js';
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { range } from './eraser.js';
import { type ExtentMove, moveExtents } from './extent-round.js';
import { goalFor } from './goal.js';
import { type Packing, packExtents } from './packing.js';
import type { Recycler } from './recycler.js';
import type { Run, Volume } from './volume.js';

/** A window is this long at most, and an eighth of all that is packed: so much may be copied twice. */
const WINDOW_BYTES = 64 << 20;
const WINDOW_SHARE = 8;
/** Below this it does not matter what is copied twice. */
const SMALL_BYTES = 1 << 20;
/** An extent touches three clusters at most, and starts and ends within one that others use too. */
const LEAST_WINDOW = 4;

export interface RepackPlan {
  /** Where the stretch of clusters begins that holds all extents afterwards. */
  first: number;
  /** Clusters that the extents need less than now. */
  savedClusters: number;
  /** Clusters that must leave the stretch. */
  inTheWay: number;
  bytesToCopy: number;
}

/** What repacking would do; null where nothing is compressed or the extents may stay where they are. */
export async function planRepack(volume: Volume, keepErased: number): Promise<RepackPlan | null> {
  const containers = [...volume.clusters.ofKind(Kind.compressed)];
  const firstContainer = containers[0];
  const lastContainer = containers.at(-1);
  if (firstContainer === undefined || lastContainer === undefined) return null;
  // Where data are pinned, hardly anything could step aside. (Extents themselves are never encrypted.)
  if (volume.pins.holdData) return null;
  const extents = await collectExtents(volume.image, volume.clusters);
  if (extents === null) return null;
  let packing = packInto(volume, extents, firstContainer);
  const savedClusters = containers.length - packing.clusters;
  if (savedClusters < 0) return null;
  const { moveLimit } = goalFor(volume, keepErased, savedClusters);
  if (savedClusters === 0 && lastContainer < moveLimit) return null;
  // Where they begin now, unless there is no room for them, or then not for the tables that must stay in one piece.
  let first = firstContainer;
  const inRuns = volume.runs().reduce((sum, { count }) => sum + (count > 1 ? count : 0), 0);
  const tablesFit = first - 1 >= inRuns || moveLimit - packing.endCluster >= inRuns;
  if (packing.endCluster > moveLimit || !tablesFit) {
    first = moveLimit - packing.clusters;
    packing = packInto(volume, extents, first);
  }
  if (first < 1 || packing.endCluster > moveLimit || volume.pins.anyIn(first, packing.endCluster))
    return null;
  const inTheWay = [...othersIn(volume, first, packing.endCluster)];
  return {
    first,
    savedClusters,
    inTheWay: inTheWay.length,
    bytesToCopy: bytesOf(extents, movesOf(extents, packing)),
  };
}

/** What a repacking needs of the run that it is part of. */
export interface RepackHost {
  recycler: Recycler;
  /** Bytes of one round at most. */
  roundBytes: () => Promise<number>;
  /**
   * Moves clusters, both arrays ascending, some of the destinations beyond the end of the file; `run`: the table
   * that they are, where they must stay together.
   */
  moveClusters: (sources: number[], destinations: number[], run?: Run) => Promise<void>;
  /** Refcount blocks for `clusters` neighbours after the file's end; false where the table has no entries for them. */
  describeMore: (clusters: number) => Promise<boolean>;
  shorten: (atLeast: number) => Promise<void>;
  roundDone: () => void;
  stopped: () => boolean;
  onCopied: (bytes: number) => void;
}

/** Carries `plan` out; returns early at a barrier when it is stopped. Throws NoRoom; the image is valid then. */
export async function repack({ first }: RepackPlan, host: RepackHost): Promise<void> {
  const { recycler } = host;
  const { volume } = recycler;
  const { map, clusterBytes } = volume;
  /** Clusters that may step aside at once: less where the refcount table has no entries for so many. */
  let roomAside = Infinity;
  for (;;) {
    const extents = await collectExtents(volume.image, volume.clusters);
    if (extents === null || host.stopped()) return;
    const { offsets, clusters, endCluster } = packInto(volume, extents, first);
    const moves = movesOf(extents, { offsets });
    if (moves.length === 0) return;
    // L2 tables may move with the rest: their descriptors are looked for again then.
    if (await clearStretch(host, first, endCluster)) continue;
    if (!volume.image.refcounts.covers(endCluster - 1)) throw new NoRoom();
    if (map.clusterCount < endCluster) await recycler.extend(endCluster - map.clusterCount);
    const perRound = Math.floor((await host.roundBytes()) / clusterBytes);
    const share = Math.max(clusters / WINDOW_SHARE, SMALL_BYTES / clusterBytes);
    // Extents at both ends of a window reach beyond it.
    const mostBytes = Math.floor(WINDOW_BYTES / clusterBytes);
    const most = Math.max(LEAST_WINDOW, Math.min(perRound - 2, mostBytes, roomAside));
    const window = Math.min(most, Math.max(LEAST_WINDOW, Math.ceil(share)));
    let aside: ExtentMove[] = [];
    let isCut = false;
    for (let next = 0; next < moves.length && aside.length === 0;) {
      const batch = batchOf(extents, moves, next, window, clusterBytes);
      const places = await placesAside(host, extents, moves.slice(next), batch, endCluster, most);
      if (places === null) {
        if (most === LEAST_WINDOW) throw new NoRoom();
        roomAside = Math.floor(most / 2);
        isCut = true;
        break;
      }
      aside = places;
      await moveExtents(recycler, extents, aside.length > 0 ? aside : batch, host.onCopied);
      await host.shorten(endCluster);
      host.roundDone();
      next += batch.length;
      if (host.stopped()) return;
    }
    if (aside.length === 0 && !isCut) return;
  }
}

/** All extents packed from cluster `first` on. */
function packInto({ image, clusterBytes }: Volume, extents: Extents, first: number): Packing {
  const packing = packExtents(extents, extents.offsets.keys(), first, {
    clusterBytes,
    greatestCount: greatestCount(image.refcounts.order),
    usable: () => true,
    endCluster: Infinity,
  });
  if (packing === null) throw new Error('more paths lead to a compressed extent than a refcount can hold');
  return packing;
}

/** Live clusters of [first, end) that hold nothing compressed. */
function* othersIn({ map, clusters }: Volume, first: number, end: number): Iterable<number> {
  for (let cluster = first; cluster < Math.min(end, map.clusterCount); cluster++) {
    if (map.is(cluster, State.live) && clusters.kind(cluster) !== Kind.compressed) yield cluster;
  }
}

/** Extents that are not where they should be. */
function movesOf(extents: Extents, { offsets }: Pick<Packing, 'offsets'>): ExtentMove[] {
  const moves: ExtentMove[] = [];
  for (let extent = 0; extent < extents.count; extent++) {
    if (offsets[extent] !== extents.offsets[extent]) moves.push({ extent, destination: offsets[extent]! });
  }
  return moves;
}

/** Bytes of the sectors that the moves copy; those that neighbours share once. */
function bytesOf(extents: Extents, moves: readonly ExtentMove[]): number {
  let bytes = 0;
  let copied = 0;
  for (const { extent } of moves) {
    bytes += Math.max(0, extents.end(extent) - Math.max(copied, extents.sectorStart(extent)));
    copied = Math.max(copied, extents.end(extent));
  }
  return bytes;
}

/** The moves from `next` on that go to one window. */
function batchOf(
  extents: Extents,
  moves: readonly ExtentMove[],
  next: number,
  window: number,
  clusterBytes: number,
): ExtentMove[] {
  const end = (Math.floor(moves[next]!.destination / clusterBytes) + window) * clusterBytes;
  let last = next + 1;
  while (last < moves.length && moves[last]!.destination + extents.lengths[moves[last]!.extent]! <= end)
    last++;
  return moves.slice(next, last);
}

/**
 * Whatever is not compressed leaves [first, end): for holes elsewhere, the lowest first, or for the end of the
 * file. Answers whether there was anything.
 */
async function clearStretch(host: RepackHost, first: number, end: number): Promise<boolean> {
  const { volume } = host.recycler;
  let cleared = false;
  while (!host.stopped()) {
    const inTheWay = new Set(othersIn(volume, first, end));
    if (inTheWay.size === 0) return cleared;
    cleared = true;
    const run = volume.runs().find(({ first: start, count }) => {
      return count > 1 && range(start, count).some((cluster) => inTheWay.has(cluster));
    });
    const sources = run === undefined ? [...inTheWay] : range(run.first, run.count);
    const destinations =
      run === undefined ? singles(host, sources.length, first, end) : window(host, run.count, first, end);
    if (destinations.length > 0)
      await host.moveClusters(sources.slice(0, destinations.length), destinations, run);
    else if (!(await host.describeMore(run?.count ?? sources.length))) throw new NoRoom();
  }
  return cleared;
}

/** Whether `cluster` can take something in, outside of [first, end); beyond the end of the file too. */
function isPlace({ map, image }: Volume, cluster: number, first: number, end: number): boolean {
  if (cluster >= first && cluster < end) return false;
  return image.refcounts.covers(cluster) && (cluster >= map.clusterCount || map.is(cluster, State.junk));
}

/** Up to `count` places, ascending. */
function singles({ recycler: { volume } }: RepackHost, count: number, first: number, end: number): number[] {
  const places: number[] = [];
  const last = describedEnd(volume);
  for (let cluster = 1; cluster < last && places.length < count; cluster++) {
    if (isPlace(volume, cluster, first, end)) places.push(cluster);
  }
  return places;
}

/** `count` neighbouring places; none where there are no such. */
function window({ recycler: { volume } }: RepackHost, count: number, first: number, end: number): number[] {
  const last = describedEnd(volume);
  for (let cluster = 1, free = 0; cluster < last; cluster++) {
    free = isPlace(volume, cluster, first, end) ? free + 1 : 0;
    if (free === count) return range(cluster - count + 1, count);
  }
  return [];
}

function describedEnd({ image }: Volume): number {
  const { present, perBlock } = image.refcounts;
  return ((present.at(-1) ?? -1) + 1) * perBlock;
}

/**
 * Moves to beyond the stretch for those of `pending` that lie where `batch` goes, and for what overlaps them, so
 * that no sector is there twice afterwards, up to `most` clusters. None where nothing is in the way; null where no
 * refcount block describes so many places and none can.
 */
async function placesAside(
  host: RepackHost,
  extents: Extents,
  pending: readonly ExtentMove[],
  batch: readonly ExtentMove[],
  beyond: number,
  most: number,
): Promise<ExtentMove[] | null> {
  const { recycler } = host;
  const { volume } = recycler;
  const { map, image, clusterBytes } = volume;
  const clusterOf = (offset: number) => Math.floor(offset / clusterBytes);
  const from = clusterOf(batch[0]!.destination);
  const last = batch.at(-1)!;
  const to = clusterOf(last.destination + extents.lengths[last.extent]! - 1);
  const start = (at: number) => extents.offsets[pending[at]!.extent]!;
  const end = (at: number) => extents.end(pending[at]!.extent);
  const isInWay = (_: ExtentMove, at: number) => clusterOf(start(at)) <= to && clusterOf(end(at) - 1) >= from;
  let low = pending.findIndex(isInWay);
  if (low < 0) return [];
  let high = pending.findLastIndex(isInWay);
  const mostBytes = most * clusterBytes;
  while (low > 0 && end(low - 1) > start(low) && end(high) - start(low - 1) <= mostBytes) low--;
  while (high + 1 < pending.length && end(high) > start(high + 1) && end(high + 1) - start(low) <= mostBytes)
    high++;
  const indices = pending.slice(low, high + 1).map(({ extent }) => extent);
  for (;;) {
    // At the end of the file, where nothing lies in between: what overlaps must not come apart.
    const packing = packExtents(extents, indices, Math.max(beyond, map.lastCluster + 1), {
      clusterBytes,
      greatestCount: greatestCount(image.refcounts.order),
      usable: (cluster) => image.refcounts.covers(cluster),
      endCluster: describedEnd(volume),
    });
    if (packing === null) {
      if (!(await host.describeMore(Math.ceil((end(high) - start(low)) / clusterBytes) + 2))) return null;
      continue;
    }
    if (packing.endCluster > map.clusterCount) await recycler.extend(packing.endCluster - map.clusterCount);
    return indices.map((extent) => ({ extent, destination: packing.offsets[extent]! }));
  }
}

/** Nothing describes a place for what must step aside: what is packed so far stays, and the rest where it is. */
export class NoRoom extends Error {}
