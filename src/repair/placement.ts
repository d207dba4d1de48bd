/** Places for refcount structures that are made anew. Pure. */
import { QcowError } from '../errors.js';
import { MAX_REFCOUNT_TABLE_BYTES } from '../format/header.js';
import { type HostClusters, Kind } from '../image/host-clusters.js';

export interface Placement {
  /** First cluster of the table, and how many it has. */
  table: number;
  tableClusters: number;
  /** Cluster of the block for each range that needs one, by the range's index. */
  blocks: Map<number, number>;
  /** Clusters from 0 to the last one in use. */
  clusterCount: number;
}

/**
 * The lowest clusters that nothing refers to and that do not hold the present structures, or new ones at the end of
 * the file. Blocks describe themselves and the table, which may take more blocks, and these a longer table: from
 * below, until all is described.
 */
export function placeStructures(clusters: HostClusters, perBlock: number, clusterBytes: number): Placement {
  const inUse = rangesInUse(clusters, perBlock);
  for (let tableClusters = 1; ;) {
    const table = firstFreeRun(clusters, tableClusters);
    const blocks = placeBlocks(clusters, perBlock, inUse, { first: table, count: tableClusters });
    let entries = 0;
    let clusterCount = Math.max(clusters.count, table + tableClusters);
    for (const [index, cluster] of blocks) {
      entries = Math.max(entries, index + 1);
      clusterCount = Math.max(clusterCount, cluster + 1);
    }
    const needed = Math.ceil((entries * 8) / clusterBytes);
    if (needed <= tableClusters) return { table, tableClusters, blocks, clusterCount };
    if (needed * clusterBytes > MAX_REFCOUNT_TABLE_BYTES) {
      throw new QcowError(
        'UNSUPPORTED',
        'the file is too long for the longest refcount table of the format',
        {
          hint: 'it was left untouched',
        },
      );
    }
    tableClusters = needed;
  }
}

function placeBlocks(
  clusters: HostClusters,
  perBlock: number,
  inUse: readonly number[],
  table: { first: number; count: number },
): Map<number, number> {
  const end = table.first + table.count;
  const indices = new Set(inUse);
  for (let cluster = table.first; cluster < end; cluster++) indices.add(Math.floor(cluster / perBlock));
  const blocks = new Map<number, number>();
  let cluster = 0;
  // A set yields what is added to it meanwhile.
  for (const index of indices) {
    do cluster++;
    while (!isFree(clusters, cluster) || (cluster >= table.first && cluster < end));
    blocks.set(index, cluster);
    indices.add(Math.floor(cluster / perBlock));
  }
  return blocks;
}

function rangesInUse({ refs, count }: HostClusters, perBlock: number): number[] {
  const indices: number[] = [];
  for (let cluster = 0; cluster < count; cluster++) {
    if (refs[cluster] === 0) continue;
    const index = Math.floor(cluster / perBlock);
    indices.push(index);
    cluster = (index + 1) * perBlock - 1;
  }
  return indices;
}

function firstFreeRun(clusters: HostClusters, length: number): number {
  let first = 1;
  for (let cluster = 1; cluster < first + length; cluster++) {
    if (!isFree(clusters, cluster)) first = cluster + 1;
  }
  return first;
}

function isFree({ kinds, count }: HostClusters, cluster: number): boolean {
  return cluster >= count || kinds[cluster] === Kind.none;
}
