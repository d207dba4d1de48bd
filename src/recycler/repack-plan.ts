/**
 * Where compressed extents go (design 6): decided once, before anything moves, so that what comes out is what was
 * said. The result takes the fewest clusters; of the ways there the one that moves least is taken.
 */
import { SECTOR } from '../device/block-device.js';
import { greatestCount } from '../format/refcounts.js';
import { type Extents, clusterOf, collectExtents, lastClusterOf } from '../image/extents.js';
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { ExtentSteps, MOST_BYTES } from './extent-steps.js';
import { type Goal, goalFor } from './goal.js';
import { packInPlace } from './in-place.js';
import { packByClusters, packExtents } from './packing.js';
import { tablesHaveRoom } from './planner.js';
import type { Volume } from './volume.js';

export interface RepackPlan {
  extents: Extents;
  /** Host offset that each extent gets, in the order of the extents. */
  targets: Float64Array;
  /** Clusters that hold extents afterwards are not 0 here; others are, and those behind the end of it. */
  holds: Uint8Array;
  /** A sector; or a cluster, where refcounts are too narrow for what comes to one beside what is yet to leave it. */
  grainBytes: number;
  /** Clusters that the extents need less than now. */
  savedClusters: number;
  /** Clusters that must be cleared of something else first. */
  inTheWay: number;
  bytesToCopy: number;
}

/** What repacking would do; null where nothing is compressed or the extents may stay where they are. */
export async function planRepack(
  volume: Volume,
  keepErased: number,
  roundBytes: number,
): Promise<RepackPlan | null> {
  // Where data are pinned, hardly anything could step aside. (Extents themselves are never encrypted.)
  if (!volume.clusters.hasCompressed || volume.pins.holdData) return null;
  const extents = await collectExtents(volume.image, volume.clusters);
  if (extents === null) return null;
  const containers = new Containers(volume);
  const { clusters, isLeast, pack } = closest(volume, extents);
  const savedClusters = containers.count - clusters;
  const goal = goalFor(volume, keepErased, savedClusters);
  const stays = savedClusters === 0 && containers.last < goal.moveLimit;
  if (stays && tablesHaveRoom(volume, goal, () => volume.clusters.ofKind(Kind.compressed))) return null;

  const last = goal.moveLimit - clusters;
  if (last < 1) return null;
  const first = Math.min(containers.first, last);
  const inPlace = (closesUpAtOnce: boolean) =>
    packInPlace(extents, {
      closesUpAtOnce,
      clusterBytes: volume.clusterBytes,
      firstCluster: first,
      endCluster: goal.moveLimit,
      clusters,
      isWall: (cluster) => isWall(volume, goal, cluster),
      asideBytes: Math.min(roundBytes / 4, MOST_BYTES / 2, roomAtTheEnd(volume) / 2),
    });
  // Where they begin now; or where tables find no room then, at the end, with all the room before them.
  // Where narrow refcounts hide the least there is, another order could be better yet to the next run.
  const placing = isLeast ? [() => inPlace(false), () => inPlace(true)] : [];
  const ways = [placing, [() => pack(first)], [() => pack(last)]];
  for (const [i, alike] of ways.entries()) {
    let best: Candidate | null = null;
    for (const way of alike) {
      const layout = new Layout(volume, extents, way(), goal);
      if (layout.clusters > clusters || layout.isTooFull) continue;
      if (i + 1 < ways.length && !tablesHaveRoom(volume, goal, () => layout.containers())) continue;
      const candidate = layout.plan(savedClusters, roundBytes);
      if (best === null || candidate.cost < best.cost) best = candidate;
      if (candidate.plan.bytesToCopy <= LITTLE_BYTES) break;
    }
    if (best !== null) return best.plan;
  }
  return null;
}

/** So little that it is not worth looking for a cheaper way. */
const LITTLE_BYTES = 1 << 20;
/** What the two barriers of a round take, in bytes that could have been copied. */
const ROUND_BYTES = 1 << 20;

interface Candidate {
  plan: RepackPlan;
  cost: number;
}

/** Bytes behind the end of the file for which the refcount table has entries. */
function roomAtTheEnd({ image, map, clusterBytes }: Volume): number {
  const { blocks, perBlock } = image.refcounts;
  return Math.max(0, blocks.length * perBlock - map.clusterCount) * clusterBytes;
}

/** The clusters that hold extents now. */
class Containers {
  first = -1;
  last = -1;
  count = 0;

  constructor({ clusters }: Volume) {
    for (const cluster of clusters.ofKind(Kind.compressed)) {
      if (this.first < 0) this.first = cluster;
      this.last = cluster;
      this.count++;
    }
  }
}

/** The fewest clusters in which extents fit in the order of the file, and how they lie there from a cluster on. */
function closest({ image, clusterBytes }: Volume, extents: Extents) {
  const limits = {
    clusterBytes,
    greatestCount: greatestCount(image.refcounts.order),
    usable: () => true,
    endCluster: Infinity,
  };
  const close = (first: number) => packExtents(extents, extents.offsets.keys(), first, limits);
  const byClusters = (first: number) => packByClusters(extents, first, clusterBytes);
  const packed = close(1);
  if (packed === null) throw new Error('more paths lead to a compressed extent than a refcount can hold');
  const { clusters } = byClusters(1);
  const isLeast = packed.clusters === Math.ceil((extents.sectors * SECTOR) / clusterBytes);
  return packed.clusters <= clusters
    ? { clusters: packed.clusters, isLeast, pack: (first: number) => close(first)!.offsets }
    : { clusters, isLeast: false, pack: (first: number) => byClusters(first).offsets };
}

/** Whether something else holds the cluster, or a refcount block that its range lacks will. */
function isWall({ map, clusters, image }: Volume, { blockCount }: Goal, cluster: number): boolean {
  const { blocks, perBlock } = image.refcounts;
  const range = Math.floor(cluster / perBlock);
  if (cluster % perBlock === 0 && range < blockCount && (blocks[range] ?? 0) === 0) return true;
  return map.is(cluster, State.live) && clusters.kind(cluster) !== Kind.compressed;
}

/** Extents in certain places, and whether that is possible. */
class Layout {
  readonly #volume: Volume;
  readonly #extents: Extents;
  readonly #targets: Float64Array;
  readonly #holds: Uint8Array;
  /** Paths that lead to each cluster. */
  readonly #paths: Float64Array;
  /** Clusters that hold something. */
  clusters = 0;
  /** More paths lead to some cluster than its refcount can hold, or something reaches beyond the goal, or it is pinned. */
  isTooFull = false;

  constructor(volume: Volume, extents: Extents, targets: Float64Array, { moveLimit }: Goal) {
    this.#volume = volume;
    this.#extents = extents;
    this.#targets = targets;
    this.#holds = new Uint8Array(moveLimit);
    const paths = (this.#paths = new Float64Array(moveLimit));
    const greatest = greatestCount(volume.image.refcounts.order);
    for (let extent = 0; extent < extents.count; extent++) {
      const target = targets[extent]!;
      const last = lastClusterOf(target, extents.lengths[extent]!, volume.clusterBytes);
      if (last >= moveLimit) {
        this.isTooFull = true;
        return;
      }
      for (let cluster = clusterOf(target, volume.clusterBytes); cluster <= last; cluster++) {
        if (paths[cluster] === 0) this.clusters++;
        paths[cluster]! += extents.paths[extent]!;
        this.#holds[cluster] = 1;
        if (paths[cluster]! > greatest || volume.pins.has(cluster)) this.isTooFull = true;
      }
    }
  }

  /** Clusters that hold something, ascending. */
  *containers(): Iterable<number> {
    for (let at = this.#holds.indexOf(1); at >= 0; at = this.#holds.indexOf(1, at + 1)) yield at;
  }

  plan(savedClusters: number, roundBytes: number): Candidate {
    const { map, clusters, clusterBytes, image } = this.#volume;
    const greatest = greatestCount(image.refcounts.order);
    let inTheWay = 0;
    let isNarrow = false;
    for (const cluster of this.containers()) {
      if (!map.is(cluster, State.live)) continue;
      if (clusters.kind(cluster) !== Kind.compressed) inTheWay++;
      else if (this.#paths[cluster]! + clusters.refs[cluster]! > greatest) isNarrow = true;
    }
    const extents = this.#extents;
    const targets = this.#targets;
    const grainBytes = isNarrow ? clusterBytes : SECTOR;
    const { rounds, bytes } = new ExtentSteps(extents, targets, clusterBytes, grainBytes).count(roundBytes);
    const cost = bytes + rounds * ROUND_BYTES + inTheWay * clusterBytes;
    const bytesToCopy = bytes;
    const plan = { extents, targets, holds: this.#holds, grainBytes, savedClusters, inTheWay, bytesToCopy };
    return { plan, cost };
  }
}
