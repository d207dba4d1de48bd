import { describe, expect, test } from 'vitest';
import { image, type BuiltImage, type ImageBuilder, type LayoutOptions } from '../support/image-builder.js';
import { compareGuestView, guestView } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';

const CLUSTER = 512;

function sample(): ImageBuilder {
  return image({ seed: 11, backingFile: 'base.raw' })
    .extension(0x12345678, new Uint8Array([1, 2, 3]))
    .writeRange(0, 6)
    .zero(8)
    .zero(9, { allocated: true })
    .snapshot('before', { vmStateClusters: 2, extraSize: 100 })
    .write(3)
    .discard(4)
    .write(100);
}

/** What the comparison says after this change of the image. */
function after(change: (built: BuiltImage) => void, layout: LayoutOptions = {}): string | null {
  const built = sample().layout(layout).buildWithMap();
  const view = guestView(built.bytes);
  change(built);
  return compareGuestView(view, built.bytes);
}

function entry(built: BuiltImage, table: string, index: number): number {
  return built.where(table) * CLUSTER + index * 8;
}

function flip(built: BuiltImage, position: number): void {
  built.bytes[position] = (built.bytes[position] ?? 0) ^ 0x40;
}

describe('the guest sees the same', () => {
  test('after nothing happened', () => {
    expect(after(() => {})).toBeNull();
  });

  test('wherever everything is in the file', () => {
    const view = guestView(sample().build());
    const waste = { junk: 30, leaks: 5, overcounted: 5, extraRefcountTableClusters: 2, blocksPastEnd: 2 };
    for (let gap = 0; gap < 20; gap++) {
      expect(
        compareGuestView(
          view,
          sample()
            .layout({ shuffle: true, gap, ...waste })
            .build(),
        ),
      ).toBeNull();
    }
  });

  test('when the garbage in an allocated zero cluster, or its allocation, is gone', () => {
    expect(
      after((b) =>
        b.bytes.fill(0, b.where('data active:9') * CLUSTER, b.where('data active:9') * CLUSTER + 100),
      ),
    ).toBeNull();
    expect(
      after((b) => b.bytes.fill(0, entry(b, 'L2 active:0', 9), entry(b, 'L2 active:0', 9) + 7)),
    ).toBeNull();
  });

  test('when an L2 table with no entry is freed', () => {
    const built = image({ seed: 1 }).write(70).discard(70).write(3).buildWithMap();
    const view = guestView(built.bytes);
    const slot = entry(built, 'L1', 1);
    built.bytes.fill(0, slot, slot + 8);
    expect(compareGuestView(view, built.bytes)).toBeNull();
  });

  test('when the last data cluster, zeroes at its end, is cut short', () => {
    const built = image({ seed: 1 })
      .write(0, new Uint8Array([1, 2, 3]))
      .buildWithMap();
    expect(built.where('data active:0')).toBe(built.bytes.length / CLUSTER - 1);
    const view = guestView(built.bytes);
    expect(compareGuestView(view, built.bytes.subarray(0, built.bytes.length - CLUSTER + 3))).toBeNull();
    expect(compareGuestView(view, built.bytes.subarray(0, built.bytes.length - CLUSTER + 2))).toMatch(
      /data differ/,
    );
  });
});

describe('the guest sees a difference', () => {
  const changes: Record<string, [RegExp, (built: BuiltImage) => void]> = {
    'in the data of the active layer': [
      /active layer, L1 entry 1, L2 entry 36: the data differ/,
      (b) => flip(b, b.where('data active:100') * CLUSTER + 511),
    ],
    'in the data of the snapshot': [
      /snapshot 1, L1 entry 0, L2 entry 3: the data differ/,
      (b) => flip(b, b.where('data 1:3') * CLUSTER),
    ],
    'in the machine state': [
      /snapshot 1, L1 entry 4, L2 entry 1/,
      (b) => flip(b, b.where('data 1:257') * CLUSTER),
    ],
    'where a cluster is gone': [
      /was data, is unallocated/,
      (b) => b.bytes.fill(0, entry(b, 'L2 active:0', 3), entry(b, 'L2 active:0', 4)),
    ],
    'where zeroes give way to the backing file': [
      /was zero, is unallocated/,
      (b) => (b.bytes[entry(b, 'L2 active:0', 8) + 7] = 0),
    ],
    'where a table is gone': [/L1 entry 1/, (b) => b.bytes.fill(0, entry(b, 'L1', 1), entry(b, 'L1', 2))],
    'in two entries swapped': [
      /the data differ/,
      (b) => {
        const start = entry(b, 'L2 active:0', 1);
        const first = b.bytes.slice(start, start + 8);
        b.bytes.copyWithin(start, start + 8, start + 16);
        b.bytes.set(first, start + 8);
      },
    ],
    'in the virtual size': [/header cluster differs/, (b) => flip(b, 30)],
    'in an extension of the header': [/header cluster differs/, (b) => flip(b, 112 + 8)],
    'in the name of the backing file': [/header cluster differs/, (b) => flip(b, 112 + 16 + 8)],
    'in the last byte of the header cluster': [/header cluster differs/, (b) => flip(b, CLUSTER - 1)],
    'in the number of snapshots': [/header cluster differs/, (b) => (b.bytes[63] = 0)],
    'in unknown extra data of a snapshot': [
      /entry 0 of the snapshot table/,
      (b) => flip(b, b.where('snapshot table') * CLUSTER + 40 + 90),
    ],
    'in the name of a snapshot': [
      /entry 0 of the snapshot table/,
      (b) => flip(b, b.where('snapshot table') * CLUSTER + 140 + 6),
    ],
  };
  test.each(Object.entries(changes))('%s', (_, [expected, change]) => {
    expect(after(change)).toMatch(expected);
    expect(after(change, { shuffle: true, junk: 9 })).toMatch(expected);
  });

  test('in any one byte of live data', () => {
    const { bytes } = randomImage(5, { clean: true, clusterBits: 9, layout: { zeroJunk: true } });
    const view = guestView(bytes);
    expect(compareGuestView(view, bytes)).toBeNull();
    bytes.fill(0, CLUSTER);
    expect(compareGuestView(view, bytes)).not.toBeNull();
  });
});

test('an image cut short anywhere is never an exception', () => {
  const bytes = sample().build();
  const view = guestView(bytes);
  for (let length = 0; length < bytes.length - CLUSTER; length += 41) {
    expect(typeof compareGuestView(view, bytes.subarray(0, length))).toBe('string');
  }
});
