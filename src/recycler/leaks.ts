/** Refcounts that are higher than the references found (I3). */
import type { Volume } from './volume.js';

/**
 * Counts that are too high come down to the references found: for junk to 0, else in place, except where that
 * would make it 1 under an entry without the COPIED flag (the plan moves those). Also counts beyond the end.
 */
export function reclaimLeaks(volume: Volume): { found: number; pending: number } {
  const { clusters, image } = volume;
  const { refcounts } = image;
  let found = 0;
  let pending = 0;
  refcounts.dropStale();
  for (let cluster = 0; cluster < clusters.count; cluster++) {
    const refs = clusters.refs[cluster]!;
    if (refcounts.get(cluster) === refs) continue;
    found++;
    if (clusters.needsFlag(cluster)) pending++;
    else refcounts.set(cluster, refs);
  }
  return { found, pending };
}

/** Counts that are still too high. */
export function countLeaks({ image, clusters }: Volume): number {
  let count = 0;
  for (let cluster = 0; cluster < clusters.count; cluster++) {
    if (image.refcounts.get(cluster) !== clusters.refs[cluster]) count++;
  }
  return count;
}
