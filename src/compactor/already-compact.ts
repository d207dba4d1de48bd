/** The shortest way through a compaction: seeing that there is nothing to do before anything is planned. */
import type { Image } from '../image/image.js';
import type { Walk } from '../image/walk.js';
import { minimalSize } from '../recycler/goal.js';

/**
 * Whether a compaction would change nothing, whatever its options: every cluster of the file is in use with
 * the refcount that it should have, and the refcount structures are as small as they can be. (`keepErased`
 * keeps clusters that nothing uses, and there are none.)
 */
export function isAlreadyCompact({ header, refcounts, fileClusters }: Image, walked: Walk): boolean {
  const { leaks, corruptions } = walked.findings;
  // Compressed clusters may be partly dead, which only a forecast tells.
  if (walked.clusters.hasCompressed) return false;
  if (walked.emptyTables.length > 0) return false;
  if (walked.junk > 0 || leaks > 0 || corruptions > 0 || refcounts.hasStale) return false;
  const blocks = refcounts.present.length;
  const others = fileClusters - blocks - refcounts.tableClusters;
  const least = minimalSize(others, refcounts.perBlock, header.clusterBytes);
  return least.blockCount === blocks && least.tableClusters === refcounts.tableClusters;
}
