/** How small the image can get: the final length and the refcount structures that it needs (design 4.3). */
import type { Volume } from './volume.js';
import { State } from './cluster-map.js';

export interface Goal {
  /** Clusters of the smallest file without a leak: all that is live, refcount structures included. */
  minimalClusters: number;
  /** Clusters of the file that this run leaves: with the pool that is to stay. */
  finalClusters: number;
  /** Units at or beyond this cluster move below it. */
  moveLimit: number;
  /** Refcount blocks that the minimal file needs, and the clusters of the table that names them. */
  blockCount: number;
  tableClusters: number;
}

/**
 * The smallest T with T = other + blocks(T) + table(T), found from below: each side grows with T, so the
 * first fixed point met is the least.
 */
export function minimalSize(
  otherClusters: number,
  perBlock: number,
  clusterBytes: number,
): { clusters: number; blockCount: number; tableClusters: number } {
  for (let clusters = otherClusters; ;) {
    const blockCount = Math.ceil(clusters / perBlock);
    const tableClusters = Math.ceil((blockCount * 8) / clusterBytes);
    const next = otherClusters + blockCount + tableClusters;
    if (next === clusters) return { clusters, blockCount, tableClusters };
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
  const { clusters, blockCount, tableClusters } = minimalSize(other, refcounts.perBlock, volume.clusterBytes);
  const finalClusters = Math.max(clusters, Math.min(clusters + keepErased, fileClusters));
  return {
    minimalClusters: clusters,
    finalClusters,
    // What lies in the pool's stretch may stay there, as long as a block that remains describes it.
    moveLimit: Math.min(finalClusters, blockCount * refcounts.perBlock),
    blockCount,
    tableClusters,
  };
}
