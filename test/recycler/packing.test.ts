import { describe, expect, test } from 'vitest';
import type { Extents } from '../../src/image/extents.js';
import { type PackingLimits, packByClusters, packExtents } from '../../src/recycler/packing.js';
import { extentsOf } from './extents-of.js';

function pack(extents: Extents, from: number, limits: Partial<PackingLimits> = {}) {
  const packing = packExtents(extents, extents.offsets.keys(), from, {
    clusterBytes: 4096,
    greatestCount: 65_535,
    usable: () => true,
    endCluster: 1000,
    ...limits,
  });
  return packing && { ...packing, offsets: [...packing.offsets] };
}

describe('packing', () => {
  test('one behind the other, each at its place within a sector', () => {
    const extents = extentsOf([10_000, 10_240], [20_481, 22_016], [30_720, 31_232]);
    expect(pack(extents, 1)).toEqual({
      offsets: [4096 + (10_000 % 512), 4608 + 1, 6144],
      clusters: 1,
      endCluster: 2,
    });
  });

  test('what overlaps stays at the same distance: sectors are shared as before', () => {
    // The second begins in the last sector of the first, the third in that of the second.
    const extents = extentsOf([8192, 9728], [9300, 10_752], [10_700, 11_264], [20_480, 20_992]);
    expect(pack(extents, 1)).toEqual({
      offsets: [4096, 4096 + 1108, 4096 + 2508, 4096 + 3072],
      clusters: 1,
      endCluster: 2,
    });
  });

  test('an extent may lie in two adjacent clusters', () => {
    const extents = extentsOf([8192, 11_264], [16_384, 19_456], [24_576, 27_648]);
    expect(pack(extents, 2)).toMatchObject({ offsets: [8192, 11_264, 14_336], clusters: 3, endCluster: 5 });
  });

  test('what is packed already stays where it is', () => {
    const extents = extentsOf([8192, 9728], [9300, 10_752], [10_752, 15_872], [15_872, 16_384]);
    expect(pack(extents, 2)?.offsets).toEqual([...extents.offsets]);
  });

  test('a cluster holds no more than its refcount can count', () => {
    const extents = extentsOf([8192, 8704, 2], [9216, 9728], [10_240, 10_752]);
    expect(pack(extents, 1, { greatestCount: 3 })).toMatchObject({
      offsets: [4096, 4608, 8192],
      clusters: 2,
    });
    // A chain is broken where it must be: the sector that was shared is there twice.
    const chain = extentsOf([8192, 8704], [8600, 9216]);
    expect(pack(chain, 1, { greatestCount: 1 })).toMatchObject({ offsets: [4096, 8192 + 408], clusters: 2 });
  });

  test('around clusters that are not to be had, and null where there are too few', () => {
    const extents = extentsOf([40_960, 44_032], [49_152, 52_224], [57_344, 60_416]);
    expect(pack(extents, 1, { usable: (cluster) => cluster !== 2 })).toEqual({
      offsets: [4096, 3 * 4096, 3 * 4096 + 3072],
      clusters: 3,
      endCluster: 5,
    });
    expect(pack(extents, 1, { usable: (cluster) => cluster !== 2, endCluster: 3 })).toBeNull();
  });
});

test('by whole clusters: what is in one stays in one, as it is', () => {
  const extents = extentsOf([8192, 8704], [9000, 9728], [16_000, 16_896], [17_000, 17_408], [40_960, 41_472]);
  const { offsets, clusters, endCluster } = packByClusters(extents, 1, 4096);
  expect([...offsets]).toEqual([4096, 4904, 16_000 - 4096, 17_000 - 4096, 16_384]);
  expect({ clusters, endCluster }).toEqual({ clusters: 4, endCluster: 5 });
});

test('extents are in host order, each once, with all descriptors and paths', () => {
  const extents = extentsOf([9000, 9216, 2], [5000, 5120], [9000, 9216, 3]);
  expect([...extents.offsets]).toEqual([5000, 9000]);
  expect([...extents.lengths]).toEqual([120, 216]);
  expect([...extents.paths]).toEqual([1, 5]);
  expect([...extents.slotsFrom]).toEqual([0, 1, 3]);
  expect([...extents.slots]).toEqual([8, 0, 16]);
});
