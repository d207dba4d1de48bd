import { describe, expect, test } from 'vitest';
import { type Stretch, packInPlace } from '../../src/recycler/in-place.js';
import { Random } from '../support/random.js';
import { extentsOf } from './extents-of.js';

/** Chains by [first sector, sector after the last], of one extent each, in clusters of 8 sectors. */
function place(chains: readonly [number, number][], stretch: Partial<Stretch> & Pick<Stretch, 'clusters'>) {
  const extents = extentsOf(...chains.map(([from, to]): [number, number] => [from * 512 + 7, to * 512]));
  const targets = packInPlace(extents, {
    clusterBytes: 4096,
    firstCluster: 1,
    endCluster: 1 + stretch.clusters,
    isWall: () => false,
    asideBytes: 0,
    closesUpAtOnce: false,
    ...stretch,
  });
  return [...targets].map((target) => (target - 7) / 512);
}

describe('extents in place', () => {
  test('what is packed already stays', () => {
    expect(
      place(
        [
          [8, 16],
          [16, 21],
          [21, 24],
        ],
        { clusters: 2 },
      ),
    ).toEqual([8, 16, 21]);
  });

  test('a gap is filled with the last chain that fits it, and the others stay', () => {
    // 3 sectors are dead; one of 3 lies at the end, and one of 2 behind it.
    const chains: [number, number][] = [
      [8, 12],
      [15, 24],
      [24, 29],
      [29, 32],
      [32, 34],
    ];
    expect(place(chains, { clusters: 3 })).toEqual([8, 15, 24, 12, 29]);
  });

  test('two chains and three fill a gap together', () => {
    expect(
      place(
        [
          [8, 9],
          [14, 24],
          [24, 26],
          [28, 31],
        ],
        { clusters: 2 },
      ),
    ).toEqual([8, 14, 12, 9]);
    expect(
      place(
        [
          [8, 9],
          [15, 24],
          [24, 25],
          [26, 28],
          [29, 32],
        ],
        { clusters: 2 },
      ),
    ).toEqual([8, 15, 14, 12, 9]);
  });

  test('a gap is left where as much may be wasted', () => {
    expect(
      place(
        [
          [8, 12],
          [14, 24],
          [24, 30],
        ],
        { clusters: 3 },
      ),
    ).toEqual([8, 14, 24]);
  });

  test('what is behind a gap that nothing fits closes up', () => {
    expect(
      place(
        [
          [8, 12],
          [15, 24],
          [24, 34],
        ],
        { clusters: 3 },
      ),
    ).toEqual([8, 12, 21]);
  });

  test('whole clusters of a gap are left to others where the extents do not need them', () => {
    expect(
      place(
        [
          [8, 16],
          [32, 40],
          [40, 45],
        ],
        { clusters: 3, endCluster: 6 },
      ),
    ).toEqual([8, 32, 40]);
    expect(
      place(
        [
          [8, 16],
          [32, 40],
          [40, 48],
        ],
        { clusters: 3, endCluster: 4 },
      ),
    ).toEqual([8, 16, 24]);
  });

  test('what holds something else stays, if there is room for it', () => {
    const isWall = (cluster: number) => cluster === 2;
    expect(
      place(
        [
          [8, 16],
          [24, 32],
          [40, 48],
        ],
        { clusters: 3, endCluster: 5, isWall },
      ),
    ).toEqual([8, 24, 32]);
    expect(
      place(
        [
          [8, 16],
          [24, 32],
          [40, 48],
        ],
        { clusters: 3, endCluster: 4, isWall },
      ),
    ).toEqual([8, 16, 24]);
  });
});

test('neighbours are cut out of a chain where a sector more may be spent on that', () => {
  // Six extents of about two sectors, each beginning in the last sector of the one before.
  const chain = Array.from({ length: 6 }, (_, i): [number, number] => [
    15 * 512 + i * 1000,
    (Math.ceil(((i + 1) * 1000) / 512) + 15) * 512,
  ]);
  const extents = extentsOf([4096, 4096 + 512], ...chain);
  const stretch = {
    clusterBytes: 4096,
    firstCluster: 1,
    isWall: () => false,
    asideBytes: 0,
    closesUpAtOnce: false,
  };
  const targets = packInPlace(extents, { ...stretch, clusters: 2, endCluster: 3 });
  const moved = [...targets.keys()].filter((i) => targets[i] !== extents.offsets[i]);
  expect(moved).toEqual([5, 6]);
  expect(targets[5]).toBe(4096 + 512 + (extents.offsets[5]! % 512));
  expect(targets[6]! - targets[5]!).toBe(1000);
});

test('whatever the extents, they do not overlap and need no more clusters than they have', () => {
  for (let seed = 1; seed <= 400; seed++) {
    const random = new Random(seed);
    const ranges: [number, number][] = [];
    let at = random.between(1, 9) * 4096;
    const first = at / 4096;
    for (let i = 0; i < random.between(2, 60); i++) {
      const end = Math.ceil((at + random.between(1, 4000)) / 512) * 512;
      ranges.push([at, end]);
      // Within the last sector, behind it, or after a gap.
      at = random.chance(0.7) ? end - random.between(0, 511) : end + random.between(0, 20) * 512;
    }
    const extents = extentsOf(...ranges);
    const clusters = Math.ceil((extents.sectors * 512) / 4096);
    const last = Math.ceil(extents.end(extents.count - 1) / 4096);
    const targets = packInPlace(extents, {
      clusterBytes: 4096,
      firstCluster: first,
      endCluster: random.between(first + clusters, Math.max(first + clusters, last)),
      clusters,
      isWall: () => false,
      asideBytes: random.pick([0, 4096, 1 << 20]),
      closesUpAtOnce: random.chance(0.3),
    });
    const ofSector = new Map<number, number>();
    const used = new Set<number>();
    for (const [extent, target] of targets.entries()) {
      expect(target % 512).toBe(extents.offsets[extent]! % 512);
      for (
        let sector = Math.floor(target / 512);
        sector * 512 < target + extents.lengths[extent]!;
        sector++
      ) {
        // Two extents share a sector only where it is the same one of the file.
        const source = sector * 512 - target + extents.offsets[extent]!;
        expect(ofSector.get(sector) ?? source, `seed ${seed}`).toBe(source);
        ofSector.set(sector, source);
        used.add(Math.floor(sector / 8));
      }
    }
    expect(used.size, `seed ${seed}`).toBeLessThanOrEqual(clusters);
  }
});
