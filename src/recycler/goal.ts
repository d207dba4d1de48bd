/** How small the image can get: the final length and the refcount structures that it needs (design 4.3). */
import type { Volume } from './volume.js';
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';

export interface Goal {
  /**
   * Clusters of the smallest file without a leak: all that is live, refcount structures included, or what reaches
   * to the last pinned cluster.
   */
  minimalClusters: number;
  /** Clusters of the file that this run leaves: with the pool that is to stay. */
  finalClusters: number;
  /** Units at or beyond this cluster move below it. */
  moveLimit: number;
  /** Refcount blocks that the minimal file needs, and the clusters of the table that names them. */
  blockCount: number;
  tableClusters: number;
  /** Clusters of the minimal file that nothing uses: pinned ones hold it open. */
  junkClusters: number;
}

/**
 * The smallest T with T = other + blocks(T) + table(T), but not below `atLeast`, found from below: each side
 * grows with T, so the first fixed point met is the least. `live`: what is used of it.
 */
export function minimalSize(
  otherClusters: number,
  perBlock: number,
  clusterBytes: number,
  atLeast = 0,
): { clusters: number; live: number; blockCount: number; tableClusters: number } {
  for (let clusters = Math.max(otherClusters, atLeast); ;) {
    const blockCount = Math.ceil(clusters / perBlock);
    const tableClusters = Math.ceil((blockCount * 8) / clusterBytes);
    const live = otherClusters + blockCount + tableClusters;
    const next = Math.max(live, atLeast);
    if (next === clusters) return { clusters, live, blockCount, tableClusters };
    clusters = next;
  }
}

/**
 * The goal for the volume as it is now, with `keepErased` clusters left as a pool. `savedClusters`: what the
 * repacking of compressed extents will free.
 */
export function goalFor(volume: Volume, keepErased: number, savedClusters = 0): Goal {
  const { refcounts, fileClusters } = volume.image;
  const present = refcounts.present.length;
  const live = volume.map.countOf(State.live) + volume.map.countOf(State.leaving);
  const other = live - present - refcounts.tableClusters - savedClusters;
  const {
    clusters,
    live: needed,
    blockCount,
    tableClusters,
  } = minimalSize(other, refcounts.perBlock, volume.clusterBytes, leastForPins(volume));
  // What pinned clusters hold open is the first part of the pool.
  const finalClusters = Math.max(clusters, Math.min(needed + keepErased, fileClusters));
  return {
    minimalClusters: clusters,
    finalClusters,
    // What lies in the pool's stretch may stay there, as long as a block that remains describes it.
    moveLimit: Math.min(finalClusters, blockCount * refcounts.perBlock),
    blockCount,
    tableClusters,
    junkClusters: clusters - needed,
  };
}

/** For a run that only puts refcounts right: all stays where it is, the file keeps its length and its structures. */
export function goalInPlace({ image }: Volume): Goal {
  const { refcounts, fileClusters } = image;
  return {
    minimalClusters: fileClusters,
    finalClusters: fileClusters,
    moveLimit: Infinity,
    blockCount: refcounts.blocks.length,
    tableClusters: refcounts.tableClusters,
    junkClusters: 0,
  };
}

/** The length below which pinned clusters, and the tables that fit nowhere between them, do not let the file go. */
function leastForPins(volume: Volume): number {
  if (volume.pins.count === 0) return 0;
  const tables = volume.runs().filter(({ kind, count }) => count > 1 && kind !== Kind.refcountTable);
  return volume.pins.leastClusters(tables.map(({ count }) => count));
}
