import { describe, expect, test } from 'vitest';
import { HostClusters, Kind } from '../../src/image/host-clusters.js';
import { placeStructures } from '../../src/repair/placement.js';

const CLUSTER = 512;

/** A map of clusters: `x` is referenced, `o` holds the present structures, `.` nothing. */
function clustersOf(map: string): HostClusters {
  const clusters = new HostClusters(map.length);
  for (const [cluster, what] of [...map].entries()) {
    if (what === '.') continue;
    clusters.setKind(cluster, what === 'x' ? Kind.data : Kind.refcountBlock);
    if (what === 'x') clusters.refs[cluster] = 1;
  }
  return clusters;
}

function placed(map: string, perBlock: number) {
  const { table, tableClusters, blocks, clusterCount } = placeStructures(clustersOf(map), perBlock, CLUSTER);
  return {
    table,
    tableClusters,
    blocks: [...blocks].sort(([a], [b]) => a - b).map(([, at]) => at),
    clusterCount,
  };
}

test('the lowest free clusters are taken, never one that is referenced or holds what is there now', () => {
  expect(placed('xxo.xo.x', 256)).toEqual({ table: 3, tableClusters: 1, blocks: [6], clusterCount: 8 });
});

test('where none is free the file grows', () => {
  expect(placed('xxox', 256)).toEqual({ table: 4, tableClusters: 1, blocks: [5], clusterCount: 6 });
});

test('a range in which nothing is referenced gets no block', () => {
  const ranges = (map: string) => [...placeStructures(clustersOf(map), 4, CLUSTER).blocks.keys()].sort();
  expect(ranges('x...' + '....' + 'xxxx')).toEqual([0, 2]);
  // The block for the last range lies in the second one, which takes a block for that.
  expect(ranges('xxx.' + '....' + 'xxxx')).toEqual([0, 1, 2]);
});

describe('a table of several clusters', () => {
  // 64 entries a cluster of the table: 300 ranges of 4 clusters need 5.
  const full = 'x'.repeat(300 * 4);

  test('is contiguous, and describes its own place and that of all blocks', () => {
    const { table, tableClusters, blocks, clusterCount } = placed(full, 4);
    // 300 blocks take 75 ranges more, which take blocks, and so on.
    expect(blocks.length).toBe(Math.ceil(clusterCount / 4));
    expect(tableClusters).toBe(Math.ceil(blocks.length / 64));
    expect(table).toBe(full.length);
    expect(new Set(blocks).size).toBe(blocks.length);
    expect(Math.min(...blocks)).toBe(table + tableClusters);
  });

  test('takes the first stretch that is long enough', () => {
    const map = 'x....x........x' + full;
    const { table, tableClusters, blocks } = placed(map, 4);
    expect(tableClusters).toBeGreaterThan(4);
    expect(table).toBe(6);
    expect(blocks[0]).toBe(1);
  });
});

test('more than the longest table can name is refused', () => {
  const perBlock = 4;
  const clusters = new HostClusters(perBlock * 2 ** 20 + 1);
  clusters.refs[clusters.count - 1] = 1;
  clusters.setKind(clusters.count - 1, Kind.data);
  expect(() => placeStructures(clusters, perBlock, CLUSTER)).toThrow(
    /too long for the longest refcount table/,
  );
});
