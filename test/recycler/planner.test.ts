import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { Compaction } from '../../src/recycler/compaction.js';
import { State } from '../../src/recycler/cluster-map.js';
import { goalFor, minimalSize } from '../../src/recycler/goal.js';
import { planMoves } from '../../src/recycler/planner.js';
import { createMissingBlocks, releaseUnneeded } from '../../src/recycler/structures.js';
import { image } from '../support/image-builder.js';
import { Random } from '../support/random.js';
import { guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { type Rig, bytesOf, clustersIn, expectSame, inOrder, rigFor } from './harness.js';

function planOf({ volume }: Rig, keepErased = 0) {
  const { sources, destinations, ...rest } = planMoves(volume, goalFor(volume, keepErased));
  return { pairs: [...sources].map((source, i) => [source, destinations[i]!]), ...rest };
}

/** Compacts with every check on and expects the least file with the same content. */
async function expectMinimal(
  bytes: Uint8Array,
  options: { maxMoves?: number; roundBytes?: number } = {},
): Promise<Rig> {
  const rig = await rigFor(bytes);
  const result = await compactDevice(rig.gate, { runtimeAsserts: true, ...options });
  const after = rig.memory.bytes();
  expectSame(guestView(bytes), after);
  const { leaks, clusterCount } = inspect(after);
  expect({ leaks, clusterCount }).toEqual({ leaks: 0, clusterCount: minimalClusterCount(bytes) });
  expect(result.excessClusters).toBe(0);
  return rig;
}

describe('pairing', () => {
  test('ascending, so that neighbours stay neighbours', async () => {
    const rig = await rigFor(
      image()
        .writeRange(0, 10)
        .layout({ gap: 12, arrange: inOrder('refcount', 'L', 'junk', 'data') })
        .build(),
    );
    // Final length 15: what lies at 17 to 26 goes to 5 to 14.
    expect(planOf(rig)).toMatchObject({
      pairs: Array.from({ length: 10 }, (_, i) => [17 + i, 5 + i]),
      extendBy: 0,
    });
  });

  test('around what stays: the lowest source gets the lowest hole', async () => {
    const rig = await rigFor(
      image()
        .writeRange(0, 8)
        .layout({
          junk: 6,
          arrange: (units) => {
            const junk = units.filter(({ name }) => name === 'junk');
            const data = units.filter(({ name }) => name.startsWith('data'));
            const tables = units.filter(({ name }) => name !== 'junk' && !name.startsWith('data'));
            return [
              ...tables,
              data[0]!,
              junk[0]!,
              data[1]!,
              ...junk.slice(1, 3),
              ...data.slice(2),
              ...junk.slice(3),
            ];
          },
        })
        .build(),
    );
    expect(planOf(rig).pairs).toEqual([
      [13, 6],
      [14, 8],
      [15, 9],
    ]);
  });

  test('nothing moves where nothing lies beyond the final length', async () => {
    const rig = await rigFor(image().writeRange(0, 10).layout({ junkAtEnd: 10 }).build());
    expect(planOf(rig).pairs).toEqual([]);
  });

  test('a bounded plan takes the end of the file first', async () => {
    const rig = await rigFor(
      image()
        .writeRange(0, 10)
        .layout({ gap: 12, arrange: inOrder('refcount', 'L', 'junk', 'data') })
        .build(),
    );
    const { sources, destinations } = planMoves(rig.volume, goalFor(rig.volume, 0), { maxMoves: 3 });
    expect([...sources]).toEqual([24, 25, 26]);
    expect([...destinations]).toEqual([12, 13, 14]);
  });

  test('the least number of clusters is copied', async () => {
    const bytes = image()
      .writeRange(0, 30)
      .layout({ junk: 25, arrange: inOrder('refcount', 'L') })
      .build();
    const rig = await rigFor(bytes);
    const limit = minimalClusterCount(bytes);
    const beyond = clustersIn(rig, State.live).filter((cluster) => cluster >= limit).length;
    const result = await compactDevice(rig.gate);
    expect(result.bytesMoved).toBe(beyond * 512);
  });
});

describe('what is announced', () => {
  test.each([
    ['with holes for some of them', { junk: 5, overcounted: 20, shuffle: true }],
    ['with a table that needs a window', { junk: 12, shuffle: true }],
    ['with no hole', { overcounted: 20 }],
  ])('is what is copied, %s', async (_, layout) => {
    const bytes = image({ l1Size: 200, seed: 3 }).writeRange(0, 40).layout(layout).build();
    const rig = await rigFor(bytes);
    const { bytesToCopy, bytesMoved } = await compactDevice(rig.gate);
    expect(bytesMoved).toBeGreaterThan(0);
    expect(bytesToCopy).toBe(bytesMoved);
  });
});

describe('tables of several clusters', () => {
  test('go to a free window, in one piece', async () => {
    // An L1 table of 200 entries has four clusters.
    const rig = await rigFor(
      image({ l1Size: 200 })
        .writeRange(0, 6)
        .layout({ gap: 6, arrange: inOrder('refcount', 'junk', 'L2', 'data', 'L1') })
        .build(),
    );
    const { pairs, runStarts } = planOf(rig);
    const l1 = rig.volume.image.header.l1Offset / 512;
    expect([...runStarts]).toEqual([[l1, 4]]);
    expect(pairs.filter(([source]) => source! >= l1)).toEqual([
      [l1, 3],
      [l1 + 1, 4],
      [l1 + 2, 5],
      [l1 + 3, 6],
    ]);
    await expectMinimal(rig.memory.bytes());
  });

  test('a window with live clusters in it is cleared first, then taken', async () => {
    const bytes = image({ l1Size: 200 })
      .writeRange(0, 6)
      .layout({
        junk: 6,
        arrange: (units) => {
          const named = (word: string) => units.filter(({ name }) => name.startsWith(word));
          const data = named('data');
          const holes = named('junk').flatMap((junk, i) => [junk, ...data.slice(i, i + 1)]);
          return [...named('refcount'), ...named('L2'), ...holes, ...named('L1')];
        },
      })
      .build();
    const rig = await rigFor(bytes);
    const first = planOf(rig);
    expect(first.runStarts.size).toBe(0);
    expect(first.pairs.length).toBeGreaterThan(0);
    const l1 = rig.volume.image.header.l1Offset / 512;
    for (const [source] of first.pairs) expect(source).toBeLessThan(l1);
    for (const maxMoves of [undefined, 1, 2]) await expectMinimal(bytes, { maxMoves });
  });

  test('is never torn apart by a round', async () => {
    const bytes = image({ l1Size: 400 })
      .writeRange(0, 6)
      .snapshot('a')
      .layout({ gap: 30, arrange: inOrder('refcount', 'junk', 'data', 'L2', 'snapshot', 'L1') })
      .build();
    // A round of one cluster is shorter than an L1 table of seven.
    await expectMinimal(bytes, { roundBytes: 512 });
    await expectMinimal(bytes, { roundBytes: 512, maxMoves: 1 });
  });

  test.each([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])(
    'L1 tables of several snapshots, of different lengths, fragment the file: seed %i',
    async (seed) => {
      const builder = image({ clusterBits: 9, seed, l1Size: 130 }).writeRange(0, 12);
      for (const [i, guest] of [64 * 180, 64 * 260, 64 * 340, 64 * 500].entries()) {
        // Each snapshot has a longer L1 table than the last: three to eight clusters.
        builder.snapshot(`s${i}`).write(guest).write(i);
      }
      const bytes = builder.layout({ shuffle: true, junk: 15 + seed }).build();
      for (const maxMoves of [undefined, 3]) await expectMinimal(bytes, { maxMoves });
    },
  );

  // Two L1 tables of six clusters and three single ones: the final length is 16. One table at 5 to 10 leaves
  // four clusters before it and five behind it below that, so there is no window for the other.
  test.each([0, 3, 6, 12])(
    'in each other’s way: all are brought to the front, with %i junk clusters at the end',
    async (junkAtEnd) => {
      const bytes = image({ clusterBits: 9, l1Size: 380 })
        .snapshot('a')
        .layout({
          junk: 7,
          junkAtEnd,
          arrange: (units) => {
            const named = (word: string) => units.filter(({ name }) => name.startsWith(word));
            const [junk, tables] = [named('junk'), named('L1')];
            const singles = [...named('refcount'), ...named('snapshot')];
            return [junk[0]!, ...singles, tables[0]!, ...junk.slice(1), tables[1]!];
          },
        })
        .build();
      const rig = await rigFor(bytes);
      const tables = rig.volume.runs().filter(({ count }) => count > 1);
      expect(tables.map(({ first, count }) => [first, count])).toEqual([
        [5, 6],
        [17, 6],
      ]);
      expect(goalFor(rig.volume, 0).moveLimit).toBe(16);
      // The table in the way steps aside, to new clusters where no stretch is free.
      const { runStarts, extendBy } = planOf(rig);
      expect([...runStarts.keys()]).toEqual([5]);
      expect(extendBy).toBe(junkAtEnd >= 6 ? 0 : 6);
      for (const maxMoves of [undefined, 1, 3]) await expectMinimal(bytes, { maxMoves });
    },
  );

  test('in each other’s way, of every length and in every place', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const random = new Random(seed);
      const builder = image({ clusterBits: 9, l1Size: random.between(65, 500), seed });
      for (let i = random.between(1, 4); i > 0; i--) {
        builder.snapshot(`s${i}`);
        if (random.chance(0.5)) builder.write(64 * random.between(0, 600));
      }
      builder.layout({ shuffle: true, junk: random.between(1, 12), junkAtEnd: random.between(0, 3) });
      await expectMinimal(builder.build(), { maxMoves: random.pick([undefined, 1, 4]) });
    }
  });

  test('a run that overlaps its own new place goes there by a detour', async () => {
    // The table can only go three clusters down, into a window that it lies in itself.
    const bytes = image({ clusterBits: 9, l1Size: 400 })
      .write(0)
      .layout({ gap: 3, arrange: inOrder('refcount', 'L2', 'data', 'junk', 'L1') })
      .build();
    await expectMinimal(bytes);
  });

  test('the refcount table and the snapshot table are runs too', async () => {
    const builder = image({ clusterBits: 9, refcountOrder: 6 }).writeRange(0, 20);
    for (let i = 0; i < 3; i++) builder.snapshot(`s${i}`, { extraSize: 1024 });
    const arrange = inOrder('refcount block', 'junk', 'L', 'data', 'snapshot', 'refcount table');
    const bytes = builder.layout({ gap: 20, extraRefcountTableClusters: 2, arrange }).build();
    const rig = await rigFor(bytes);
    expect(rig.volume.runs().filter(({ count }) => count > 1)).toHaveLength(2);
    await expectMinimal(bytes);
  });
});

describe('the goal', () => {
  /** The least T that holds everything, found by trying every T. */
  function leastSize(other: number, perBlock: number, clusterBytes: number): number {
    for (let total = 0; ; total++) {
      const blocks = Math.ceil(total / perBlock);
      const table = Math.ceil((blocks * 8) / clusterBytes);
      if (other + blocks + table <= total) return total;
    }
  }

  test.each([
    [512, 64],
    [512, 256],
    [512, 4096],
    [1024, 128],
    [4096, 512],
  ])('clusters of %i bytes, %i counts a block: the least fixed point', (clusterBytes, perBlock) => {
    const others = [
      ...Array.from({ length: 300 }, (_, i) => i + 1),
      // Around every place where another block or another cluster of the table becomes necessary.
      ...[1, 2, 3, 63, 64, 65, 66, 128, 129, 130].flatMap((blocks) =>
        Array.from({ length: 9 }, (_, i) => blocks * perBlock - blocks - 6 + i),
      ),
    ];
    for (const other of others.filter((count) => count > 0)) {
      const { clusters, blockCount, tableClusters } = minimalSize(other, perBlock, clusterBytes);
      expect(clusters, `${other} clusters`).toBe(leastSize(other, perBlock, clusterBytes));
      expect(clusters).toBe(other + blockCount + tableClusters);
      expect(blockCount).toBe(Math.ceil(clusters / perBlock));
    }
  });

  test('is what an independent computation says of an image', async () => {
    for (const order of [0, 4, 6]) {
      for (const count of [1, 40, 56, 57, 58, 59, 60, 120]) {
        const bytes = image({ refcountOrder: order }).writeRange(0, count).layout({ junk: 70 }).build();
        const { volume } = await rigFor(bytes);
        expect(goalFor(volume, 0).minimalClusters).toBe(minimalClusterCount(bytes, { emptyTables: 'kept' }));
      }
    }
  });

  test('keepErased: so many clusters more, but no more than there are', async () => {
    const bytes = image().writeRange(0, 8).layout({ junk: 10 }).build();
    const { volume } = await rigFor(bytes);
    const minimal = minimalClusterCount(bytes);
    for (const [keep, expected] of [
      [0, minimal],
      [4, minimal + 4],
      [10, minimal + 10],
      [11, minimal + 10],
      [1e9, minimal + 10],
    ] as const) {
      expect(goalFor(volume, keep).finalClusters).toBe(expected);
      expect(goalFor(volume, keep).minimalClusters).toBe(minimal);
    }
  });
});

describe('refcount structures', () => {
  /** 64-bit counts in 512-byte clusters: a block describes 64 clusters. */
  const narrow = () => image({ clusterBits: 9, refcountOrder: 6 });

  test('blocks that describe only what goes are released, and the table gets shorter', async () => {
    const bytes = narrow()
      .writeRange(0, 20)
      .layout({ gap: 300, blocksPastEnd: 3, extraRefcountTableClusters: 2 })
      .build();
    const before = await rigFor(bytes);
    expect(before.volume.image.refcounts.tableClusters).toBe(3);
    const rig = await expectMinimal(bytes);
    const after = await rigFor(rig.memory.bytes());
    const { blocks, tableClusters } = after.volume.image.refcounts;
    expect([...blocks].filter((block) => block !== 0)).toHaveLength(1);
    expect(tableClusters).toBe(1);
  });

  test('blocks whose ranges hold each other’s blocks are released together', async () => {
    // Blocks 1 and 2 lie in each other's ranges: neither can go alone.
    const bytes = narrow()
      .writeRange(0, 20)
      .layout({
        junkAtEnd: 1,
        gap: 150,
        arrange: (units) => {
          const named = (word: string) => units.filter(({ name }) => name.startsWith(word));
          const [first, second, third] = named('refcount block');
          const gap = units.find(({ clusters }) => clusters === 150)!;
          const rest = units.filter((unit) => unit !== gap && !unit.name.startsWith('refcount block'));
          return [first!, ...rest, gap, second!, third!];
        },
      })
      .build();
    await expectMinimal(bytes);

    // The smallest such cycle, by hand: block 1 at the start of range 2, block 2 at the end of range 1.
    const built = narrow().writeRange(0, 3).layout({ junkAtEnd: 150 }).buildWithMap();
    const where = [1, 2].map((index) => built.where(`refcount block ${index}`));
    const swapped = built.bytes.slice();
    const table = built.where('refcount table') * 512;
    const view = new DataView(swapped.buffer);
    const places = [130, 100];
    for (const [i, place] of places.entries()) {
      view.setBigUint64(table + (i + 1) * 8, BigInt(place * 512));
      swapped.fill(0, place * 512, (place + 1) * 512);
      // No longer counted at the old place.
      view.setBigUint64(built.where('refcount block 0') * 512 + where[i]! * 8, 0n);
    }
    // Cluster 130 is entry 2 of block 2, which lies at 100; cluster 100 is entry 36 of block 1, at 130.
    view.setBigUint64(100 * 512 + 2 * 8, 1n);
    view.setBigUint64(130 * 512 + 36 * 8, 1n);
    expect(inspect(swapped)).toMatchObject({ corruptions: [], leaks: 0 });
    const rig = await rigFor(swapped);
    expect(await releaseUnneeded(rig.recycler, goalFor(rig.volume, 0))).toBe(2);
    rig.expectUnharmed();
    await expectMinimal(swapped);
  });

  test('blocks that hold each other, and that no single write can release together', async () => {
    // Block 5 lies in range 70 and block 70 in range 5; their entries are in different sectors of the table.
    const built = narrow().writeRange(0, 3).layout({ junkAtEnd: 4600 }).buildWithMap();
    const bytes = built.bytes.slice();
    const view = new DataView(bytes.buffer);
    const blockOf = (index: number) =>
      Number(view.getBigUint64(built.where('refcount table') * 512 + index * 8));
    const setCount = (cluster: number, count: bigint) =>
      view.setBigUint64(blockOf(Math.floor(cluster / 64)) + (cluster % 64) * 8, count);
    const places: [number, number][] = [
      [5, 70 * 64 + 10],
      [70, 5 * 64 + 10],
    ];
    for (const [index, place] of places) {
      setCount(blockOf(index) / 512, 0n);
      bytes.copyWithin(place * 512, blockOf(index), blockOf(index) + 512);
      view.setBigUint64(built.where('refcount table') * 512 + index * 8, BigInt(place * 512));
    }
    for (const [, place] of places) setCount(place, 1n);
    expect(inspect(bytes)).toMatchObject({ corruptions: [], leaks: 0 });
    const rig = await rigFor(bytes);
    while ((await releaseUnneeded(rig.recycler, goalFor(rig.volume, 0))) > 0);
    const kept = [...rig.volume.image.refcounts.blocks].flatMap((block, i) => (block === 0 ? [] : [i]));
    expect(kept).toEqual(expect.arrayContaining([5, 70]));
    for (const maxMoves of [undefined, 1]) await expectMinimal(bytes, { maxMoves });
  });

  test('a block is not released while its range holds what is still in use', async () => {
    const bytes = narrow()
      .writeRange(0, 20)
      .layout({ gap: 100, arrange: inOrder('refcount', 'L', 'junk', 'data') })
      .build();
    const rig = await rigFor(bytes);
    expect(await releaseUnneeded(rig.recycler, goalFor(rig.volume, 0))).toBe(0);
    expect(rig.recorder.log).toEqual([]);
    await expectMinimal(bytes);
  });

  test('a block that moves down from the range that it describes', async () => {
    const arrange = inOrder('refcount block 0', 'refcount table', 'L', 'junk', 'data', 'refcount block');
    await expectMinimal(narrow().writeRange(0, 60).layout({ gap: 100, arrange }).build());
  });

  test('a range below the goal without a block gets one, at its own first cluster, durable before it is named', async () => {
    // Everything in range 1 is junk, so the table has a hole there; much lies beyond it.
    const bytes = narrow()
      .writeRange(0, 60)
      .writeRange(64, 60)
      .layout({
        gap: 190,
        sparseRefcountTable: true,
        arrange: inOrder('refcount', 'L', 'junk', 'data'),
      })
      .build();
    const rig = await rigFor(bytes);
    const { refcounts } = rig.volume.image;
    expect(refcounts.blocks[1]).toBe(0);
    expect(goalFor(rig.volume, 0).blockCount).toBeGreaterThan(1);
    expect(refcounts.covers(64)).toBe(false);
    const created = await createMissingBlocks(rig.recycler, goalFor(rig.volume, 0));
    expect(created).toBeGreaterThan(0);
    expect(refcounts.blocks[1]).toBe(64 * 512);
    expect(new DataView(bytesOf(rig, 64).buffer).getBigUint64(0)).toBe(1n);
    const kinds = rig.recorder.log.map(({ kind }) => kind);
    const barrier = kinds.indexOf('flush');
    const named = rig.recorder.log.findIndex(
      (operation) => operation.kind === 'write' && operation.offset === refcounts.tableOffset,
    );
    expect(barrier).toBe(created);
    expect(named).toBeGreaterThan(barrier);
    rig.expectUnharmed();
    await expectMinimal(bytes);
  });
});

describe('the pool', () => {
  test.each([1, 3, 20, 1000])(
    'keepErased %i: that much of the junk stays, erased and durable',
    async (keepErased) => {
      const bytes = image().writeRange(0, 10).layout({ junk: 12, shuffle: true }).build();
      for (const punch of [false, true]) {
        const rig = await rigFor(bytes);
        const compaction = new Compaction(rig.volume, {
          keepErased,
          punch,
          roundBytes: 4096,
          runtimeAsserts: true,
          stopped: () => false,
          onMoved: () => undefined,
        });
        await compaction.run();
        const kept = Math.min(keepErased, 12);
        const pool = clustersIn(rig, State.available);
        expect(pool).toHaveLength(kept);
        expect(rig.memory.lengthBytes).toBe((minimalClusterCount(bytes) + kept) * 512);
        for (const cluster of pool) {
          expect(bytesOf(rig, cluster)).toEqual(new Uint8Array(512));
          expect(rig.volume.image.refcounts.get(cluster)).toBe(0);
        }
        expect(rig.recorder.log.at(-1)!.kind).toBe('flush');
        rig.expectUnharmed();
      }
    },
  );
});
