/**
 * Compressed extents squeezed into the fewest clusters, one behind the other in one stretch below the goal
 * (design 6). The stretch is filled window by window; what stands in a window goes to the end of the file first.
 */
import { greatestCount } from '../format/refcounts.js';
import { type Extents, collectExtents } from '../image/extents.js';
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { type ExtentMove, moveExtents } from './extent-round.js';
import { goalFor } from './goal.js';
import { type Packing, packExtents } from './packing.js';
import type { Recycler } from './recycler.js';
import type { Volume } from './volume.js';

/** A window is this long at most, and an eighth of all that is packed: so much may be copied twice. */
const WINDOW_BYTES = 64 << 20;
const WINDOW_SHARE = 8;
/** An extent touches three clusters at most, and starts and ends within one that others use too. */
const LEAST_WINDOW = 4;

export interface RepackPlan {
  extents: Extents;
  /** The stretch of clusters that holds all extents afterwards: [first, packing.endCluster). */
  first: number;
  packing: Packing;
  /** Clusters that the extents need less than now. */
  savedClusters: number;
  /** Single clusters that must leave the stretch. */
  inTheWay: number[];
  bytesToCopy: number;
}

/** What repacking would do; null where nothing is compressed or the extents may stay where they are. */
export async function planRepack(volume: Volume, keepErased: number): Promise<RepackPlan | null> {
  const containers = [...volume.clusters.ofKind(Kind.compressed)];
  const firstContainer = containers[0];
  const lastContainer = containers.at(-1);
  if (firstContainer === undefined || lastContainer === undefined) return null;
  const extents = await collectExtents(volume.image, volume.clusters);
  if (extents === null) return null;
  for (let first = firstContainer; first > 0;) {
    const packing = packInto(volume, extents, first);
    if (packing === null || packing.clusters > containers.length) return null;
    const savedClusters = containers.length - packing.clusters;
    const { moveLimit } = goalFor(volume, keepErased, savedClusters);
    if (savedClusters === 0 && lastContainer < moveLimit) return null;
    if (packing.endCluster > moveLimit) {
      first -= packing.endCluster - moveLimit;
      continue;
    }
    const inTheWay = singlesIn(volume, first, packing.endCluster);
    const bytesToCopy = movesOf(extents, packing).reduce(
      (sum, { extent }) => sum + extents.lengths[extent]!,
      0,
    );
    return { extents, first, packing, savedClusters, inTheWay, bytesToCopy };
  }
  return null;
}

/** What a repacking needs of the run that it is part of. */
export interface RepackHost {
  recycler: Recycler;
  /** Bytes of one round at most. */
  roundBytes: () => Promise<number>;
  /** Moves single clusters: sources and destinations ascending, `extendBy` new clusters at the end among these. */
  moveClusters: (sources: number[], destinations: number[], extendBy: number) => Promise<void>;
  /** Describes the range after the file's end by a refcount block; false where the table has no entry for it. */
  describeNext: () => Promise<boolean>;
  shorten: (atLeast: number) => Promise<void>;
  roundDone: () => void;
  stopped: () => boolean;
  onCopied: (bytes: number) => void;
}

/** Carries `plan` out; returns early at a barrier when it is stopped. Throws NoRoom; the image is valid then. */
export async function repack(plan: RepackPlan, host: RepackHost): Promise<void> {
  const { recycler } = host;
  const { volume } = recycler;
  const { map, clusterBytes } = volume;
  const { first, packing } = plan;
  await clearStretch(plan, host);
  if (host.stopped()) return;
  if (map.clusterCount < packing.endCluster) await recycler.extend(packing.endCluster - map.clusterCount);
  // L2 tables may have moved, and the descriptors with them.
  let extents = await collectExtents(volume.image, volume.clusters);
  while (extents !== null) {
    const packed: Packing | null = packInto(volume, extents, first);
    if (packed === null) throw new Error('compressed extents do not fit where they should');
    const moves = movesOf(extents, packed);
    const perRound = Math.floor((await host.roundBytes()) / clusterBytes);
    const share = Math.ceil(packed.clusters / WINDOW_SHARE);
    const window = Math.max(LEAST_WINDOW, Math.min(share, perRound, Math.floor(WINDOW_BYTES / clusterBytes)));
    const relocated: ExtentMove[] = [];
    let aside: ExtentMove[] = [];
    for (let next = 0; next < moves.length && aside.length === 0;) {
      const batch = batchOf(extents, moves, next, window, clusterBytes);
      aside = await placesAside(host, extents, moves.slice(next), batch, packed.endCluster);
      const turn = aside.length > 0 ? aside : batch;
      await moveExtents(recycler, extents, turn, host.onCopied);
      await host.shorten(packed.endCluster);
      host.roundDone();
      relocated.push(...turn);
      next += batch.length;
      if (host.stopped()) return;
    }
    if (relocated.length === 0) return;
    extents = extents.relocated(
      relocated.map(({ extent }) => extent),
      relocated.map(({ destination }) => destination),
    );
    if (aside.length === 0) return;
  }
}

/** All extents packed from cluster `first` on, around what cannot leave. */
function packInto(volume: Volume, extents: Extents, first: number): Packing | null {
  const { image, clusterBytes } = volume;
  const { refcounts } = image;
  const fixed = clustersOfRuns(volume);
  return packExtents(extents, extents.offsets.keys(), first, {
    clusterBytes,
    greatestCount: greatestCount(refcounts.order),
    usable: (cluster) => refcounts.covers(cluster) && !fixed.has(cluster),
    endCluster: describedEnd(volume),
  });
}

function describedEnd({ image }: Volume): number {
  const { present, perBlock } = image.refcounts;
  return ((present.at(-1) ?? -1) + 1) * perBlock;
}

function clustersOfRuns(volume: Volume): Set<number> {
  const fixed = new Set([0]);
  for (const { first, count } of volume.runs()) {
    if (count > 1) for (let cluster = first; cluster < first + count; cluster++) fixed.add(cluster);
  }
  return fixed;
}

/** What can be moved as one cluster and lies in [first, end). */
function singlesIn(volume: Volume, first: number, end: number): number[] {
  const { map, clusters } = volume;
  const fixed = clustersOfRuns(volume);
  const singles: number[] = [];
  for (let cluster = first; cluster < Math.min(end, map.clusterCount); cluster++) {
    if (!map.is(cluster, State.live) || clusters.kind(cluster) === Kind.compressed) continue;
    if (!fixed.has(cluster)) singles.push(cluster);
  }
  return singles;
}

/** Extents that are not where they should be. */
function movesOf(extents: Extents, { offsets }: Packing): ExtentMove[] {
  const moves: ExtentMove[] = [];
  for (let extent = 0; extent < extents.count; extent++) {
    if (offsets[extent] !== extents.offsets[extent]) moves.push({ extent, destination: offsets[extent]! });
  }
  return moves;
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

/** Single clusters leave the stretch: for holes elsewhere, the lowest first, or for the end of the file. */
async function clearStretch({ first, packing }: RepackPlan, host: RepackHost): Promise<void> {
  const { volume } = host.recycler;
  const { map, image } = volume;
  for (;;) {
    const sources = singlesIn(volume, first, packing.endCluster);
    if (sources.length === 0 || host.stopped()) return;
    const destinations: number[] = [];
    let extendBy = 0;
    for (let cluster = 1; destinations.length < sources.length; cluster++) {
      if (cluster === first) cluster = packing.endCluster;
      if (!image.refcounts.covers(cluster)) {
        if (cluster >= map.clusterCount) break;
        continue;
      }
      if (cluster >= map.clusterCount) extendBy++;
      else if (!map.is(cluster, State.junk)) continue;
      destinations.push(cluster);
    }
    if (destinations.length > 0) {
      await host.moveClusters(sources.slice(0, destinations.length), destinations, extendBy);
    } else if (!(await host.describeNext())) throw new NoRoom();
  }
}

/** Moves to beyond the stretch for those of `pending` that lie where `batch` goes; none where nothing does. */
async function placesAside(
  host: RepackHost,
  extents: Extents,
  pending: readonly ExtentMove[],
  batch: readonly ExtentMove[],
  beyond: number,
): Promise<ExtentMove[]> {
  const { recycler } = host;
  const { volume } = recycler;
  const { map, image, clusterBytes } = volume;
  const { refcounts } = image;
  const clusterOf = (offset: number) => Math.floor(offset / clusterBytes);
  const from = clusterOf(batch[0]!.destination);
  const last = batch.at(-1)!;
  const to = clusterOf(last.destination + extents.lengths[last.extent]! - 1);
  const inWay = pending.filter(({ extent }) => {
    return clusterOf(extents.offsets[extent]!) <= to && clusterOf(extents.end(extent) - 1) >= from;
  });
  if (inWay.length === 0) return [];
  const indices = inWay.map(({ extent }) => extent);
  for (;;) {
    const packing = packExtents(extents, indices, beyond, {
      clusterBytes,
      greatestCount: greatestCount(refcounts.order),
      usable: (cluster) =>
        refcounts.covers(cluster) && (cluster >= map.clusterCount || map.is(cluster, State.junk)),
      endCluster: describedEnd(volume),
    });
    if (packing === null) {
      if (!(await host.describeNext())) throw new NoRoom();
      continue;
    }
    if (packing.endCluster > map.clusterCount) await recycler.extend(packing.endCluster - map.clusterCount);
    return indices.map((extent) => ({ extent, destination: packing.offsets[extent]! }));
  }
}

/** Nothing describes a place for what must step aside: what is packed so far stays, and the rest where it is. */
export class NoRoom extends Error {}
