import { describe, expect, test } from 'vitest';
import { image, type BuiltImage } from '../support/image-builder.js';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import { checkImage } from '../support/qemu.js';
import { temporaryDirectory } from './temporary-directory.js';

const directory = temporaryDirectory();
const CLUSTER = 512;

/** Guest clusters 0 to 3 shared with a snapshot, 4 rewritten since, 70 in a table of its own. */
function sample(): BuiltImage {
  return image({ seed: 3 })
    .writeRange(0, 5)
    .zero(6, { allocated: true })
    .snapshot('before')
    .write(4)
    .write(70)
    .zero(71, { allocated: true })
    .layout({ junk: 3 })
    .buildWithMap();
}

/** Where the entry of a guest cluster is in the file. */
function slot(built: BuiltImage, table: string, index: number): number {
  return built.where(table) * CLUSTER + index * 8;
}

function or(bytes: Uint8Array, position: number, bits: number): void {
  bytes[position] = (bytes[position] ?? 0) | bits;
}

/** With 16-bit refcounts and one block. */
function setRefcount(built: BuiltImage, name: string, count: number): void {
  new DataView(built.bytes.buffer).setUint16(
    built.where('refcount block 0') * CLUSTER + built.where(name) * 2,
    count,
  );
}

function setOffset(built: BuiltImage, position: number, offset: number): void {
  const view = new DataView(built.bytes.buffer);
  view.setBigUint64(position, (view.getBigUint64(position) & ~0x00ff_ffff_ffff_fe00n) | BigInt(offset));
}

test('given a valid image, the oracle and qemu-img find nothing', () => {
  const { bytes } = sample();
  expect(inspect(bytes)).toMatchObject({ corruptions: [], leaks: 0, staleRefcountsPastEnd: 0 });
  expect(checkImage(directory.store('valid.qcow2', bytes))).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
});

describe('given one corruption, the oracle finds it, and so does qemu-img', () => {
  const corruptions: Record<string, [expected: RegExp, damage: (built: BuiltImage) => void]> = {
    'refcount 0 of a data cluster': [/refcount 0, references 1/, (b) => setRefcount(b, 'data active:70', 0)],
    'refcount of a shared cluster too low': [
      /refcount 1, references 2/,
      (b) => setRefcount(b, 'data active:1', 1),
    ],
    'refcount 0 of the header': [/cluster 0 \(header\): refcount 0/, (b) => setRefcount(b, 'header', 0)],
    'refcount 0 of the L1 table': [/L1 table\): refcount 0/, (b) => setRefcount(b, 'L1', 0)],
    'refcount 0 of a snapshot L1 table': [/L1 table\): refcount 0/, (b) => setRefcount(b, 'L1 of 1', 0)],
    'refcount 0 of the snapshot table': [
      /snapshot table\): refcount 0/,
      (b) => setRefcount(b, 'snapshot table', 0),
    ],
    'refcount 0 of the refcount table': [
      /refcount table\): refcount 0/,
      (b) => setRefcount(b, 'refcount table', 0),
    ],
    'refcount 0 of a refcount block': [
      /refcount block\): refcount 0/,
      (b) => setRefcount(b, 'refcount block 0', 0),
    ],
    'refcount 0 of an L2 table': [/L2 table\): refcount 0/, (b) => setRefcount(b, 'L2 active:1', 0)],
    'COPIED set on a shared data cluster': [
      /COPIED set and refcount 2/,
      (b) => or(b.bytes, slot(b, 'L2 active:0', 1), 0x80),
    ],
    'COPIED clear on a data cluster of its own': [
      /COPIED clear and refcount 1/,
      (b) => (b.bytes[slot(b, 'L2 active:1', 70 - 64)] = 0),
    ],
    'COPIED clear on an allocated zero cluster': [
      /COPIED clear and refcount 1/,
      (b) => (b.bytes[slot(b, 'L2 active:1', 71 - 64)] = 0),
    ],
    'COPIED clear on an L2 table': [/COPIED clear and refcount 1/, (b) => (b.bytes[slot(b, 'L1', 1)] = 0)],
    'COPIED set where a leak makes the refcount 2': [
      /COPIED set and refcount 2/,
      (b) => setRefcount(b, 'data active:70', 2),
    ],
    'a reserved bit in an L1 entry': [/reserved bits/, (b) => or(b.bytes, slot(b, 'L1', 0), 0x10)],
    'a low reserved bit in an L1 entry': [/reserved bits/, (b) => or(b.bytes, slot(b, 'L1', 0) + 7, 1)],
    'a reserved bit in an L2 entry': [/reserved bits/, (b) => or(b.bytes, slot(b, 'L2 active:0', 1), 0x10)],
    'a reserved bit in an empty L2 entry': [
      /reserved bits/,
      (b) => or(b.bytes, slot(b, 'L2 active:0', 40) + 7, 2),
    ],
    'a reserved bit in the refcount table': [
      /reserved bits/,
      (b) => or(b.bytes, slot(b, 'refcount table', 0) + 7, 1),
    ],
    'a data cluster past the end': [
      /data at .* beyond the end/,
      (b) => setOffset(b, slot(b, 'L2 active:0', 1), b.bytes.length),
    ],
    'an L2 table past the end': [
      /L2 table at .* beyond the end/,
      (b) => setOffset(b, slot(b, 'L1', 1), b.bytes.length),
    ],
    'a refcount block past the end': [
      /refcount block at .* beyond the end/,
      (b) => setOffset(b, slot(b, 'refcount table', 1), b.bytes.length + CLUSTER),
    ],
    'an L2 table beyond any file': [/beyond the end/, (b) => setOffset(b, slot(b, 'L1', 3), 2 ** 50)],
    'two L1 entries with one L2 table': [
      /references 2/,
      (b) => setOffset(b, slot(b, 'L1', 2), b.where('L2 active:1') * CLUSTER),
    ],
    'a data cluster that is the L1 table': [
      /data at .* overlaps a L1 table/,
      (b) => setOffset(b, slot(b, 'L2 active:0', 1), b.where('L1') * CLUSTER),
    ],
    'an L2 table that is its own data': [
      /overlaps a L2 table/,
      (b) => setOffset(b, slot(b, 'L2 active:1', 9), b.where('L2 active:1') * CLUSTER),
    ],
    'one refcount block for two ranges': [
      /overlaps a refcount block/,
      (b) => setOffset(b, slot(b, 'refcount table', 1), b.where('refcount block 0') * CLUSTER),
    ],
    'a refcount block that is not referred to': [
      /refcount 0/,
      (b) => setOffset(b, slot(b, 'refcount table', 0), 0),
    ],
    'a snapshot with 8 bytes of extra data': [
      /snapshot .*: 8 bytes of extra data/s,
      // The rest of the 24 become the start of its id.
      (b) => {
        const view = new DataView(b.bytes.buffer, b.where('snapshot table') * CLUSTER);
        view.setUint16(12, view.getUint16(12) + 16);
        view.setUint32(36, 8);
      },
    ],
  };
  test.each(Object.entries(corruptions))('%s', (_, [expected, damage]) => {
    const built = sample();
    damage(built);
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(expected);
    expect(checkImage(directory.store('corrupt.qcow2', built.bytes)).corruptions).toBeGreaterThan(0);
  });
});

describe('what qemu-img refuses to open, or lets pass, is a corruption too', () => {
  const cases: Record<string, [RegExp, (built: BuiltImage) => void]> = {
    'not qcow2': [/not a qcow2 image/, (b) => (b.bytes[0] = 0)],
    'version 4': [/version 4/, (b) => (b.bytes[7] = 4)],
    'clusters of 256 bytes': [/cluster_bits 8/, (b) => (b.bytes[23] = 8)],
    'refcount_order 7': [/refcount_order 7/, (b) => (b.bytes[99] = 7)],
    'the dirty bit': [/incompatible features 0x1/, (b) => (b.bytes[79] = 1)],
    'no refcount table': [/no refcount table/, (b) => b.bytes.fill(0, 56, 60)],
    'an unaligned L1 table': [/L1 table at .* not aligned/, (b) => (b.bytes[47] = 8)],
    'an L1 table too small': [/too small/, (b) => (b.bytes[39] = 3)],
    'an L1 table larger than the file': [/L1 table at .* beyond the end/, (b) => b.bytes.fill(0xff, 36, 38)],
    'a snapshot table past the end': [/snapshot table: entry 0 is beyond/, (b) => b.bytes.fill(0xff, 66, 70)],
    'more snapshots than there is file': [/snapshot table: entry \d+/, (b) => (b.bytes[62] = 0xff)],
    'too many snapshots': [/\d+ snapshots/, (b) => (b.bytes[60] = 0xff)],
    'an unknown header length': [/header_length/, (b) => (b.bytes[103] = 3)],
  };
  test.each(Object.entries(cases))('%s', (_, [expected, damage]) => {
    const built = sample();
    damage(built);
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(expected);
  });

  test('an unaligned data offset', () => {
    const built = image({ clusterBits: 12, seed: 1 }).write(0).buildWithMap();
    or(built.bytes, built.where('L2 active:0') * 4096 + 6, 0x02);
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(/data at .* not aligned/);
    expect(checkImage(directory.store('unaligned.qcow2', built.bytes)).corruptions).toBeGreaterThan(0);
  });

  test('a zero cluster in version 2', () => {
    const built = image({ version: 2, seed: 1 }).write(0).buildWithMap();
    or(built.bytes, built.where('L2 active:0') * CLUSTER + 15, 1);
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(/reserved bits/);
  });

  test('a file cut short anywhere is never an exception', () => {
    const { bytes } = sample();
    for (let length = 0; length <= bytes.length - 4 * CLUSTER; length += 37) {
      expect(inspect(bytes.subarray(0, length)).corruptions, `${length} bytes`).not.toEqual([]);
    }
  });
});

test('a file that ends within its last cluster is whole; one that lacks that cluster is not', () => {
  const built = image({ seed: 2 })
    .write(0)
    .layout({
      arrange: (units) =>
        units.toSorted((a, b) => Number(a.name.startsWith('data')) - Number(b.name.startsWith('data'))),
    })
    .buildWithMap();
  const last = built.bytes.length - CLUSTER;
  expect(inspect(built.bytes.subarray(0, last + 1)).corruptions).toEqual([]);
  expect(inspect(built.bytes.subarray(0, last)).corruptions.join()).toMatch(/beyond the end/);
});

test('flags in a table that only a snapshot reaches mean nothing', () => {
  const built = sample();
  or(built.bytes, built.where('L2 1:0') * CLUSTER, 0x80);
  expect(inspect(built.bytes).corruptions).toEqual([]);
});

describe('leaks', () => {
  test('each cluster whose refcount is too high counts once', () => {
    const { bytes } = image({ seed: 4 })
      .writeRange(0, 9)
      .layout({ leaks: 5, leaksAtEnd: 2, overcounted: 3 })
      .buildWithMap();
    expect(inspect(bytes)).toMatchObject({ corruptions: [], leaks: 10 });
  });

  test('counts past the end of the file are told apart', () => {
    const { bytes } = image({ seed: 4 }).write(0).layout({ staleCounts: 1, blocksPastEnd: 2 }).buildWithMap();
    expect(inspect(bytes)).toMatchObject({ corruptions: [], leaks: 0, staleRefcountsPastEnd: 1 });
  });
});

describe('the least number of clusters', () => {
  test('is what a dense image has', () => {
    const bytes = image({ seed: 5 }).writeRange(0, 200).snapshot('a').writeRange(100, 70).build();
    expect(minimalClusterCount(bytes)).toBe(bytes.length / CLUSTER);
  });

  test.each([0, 1, 2, 3, 4, 5, 6])('counts no waste, with refcount order %i', (refcountOrder) => {
    const dense = image({ refcountOrder, seed: 6 }).writeRange(0, 150);
    const wasteful = image({ refcountOrder, seed: 6 })
      .writeRange(0, 150)
      .layout({ junk: 300, leaks: 10, blocksPastEnd: 2, extraRefcountTableClusters: 3, shuffle: true });
    expect(minimalClusterCount(wasteful.build())).toBe(dense.build().length / CLUSTER);
  });

  test('where one more block makes room for just itself', () => {
    // 64 counts a block: header, L1, 1 L2, and so much data that the file is just over one block.
    for (let data = 50; data < 64; data++) {
      const bytes = image({ refcountOrder: 6, seed: 7 }).writeRange(0, data).build();
      expect(minimalClusterCount(bytes)).toBe(bytes.length / CLUSTER);
    }
  });
});
