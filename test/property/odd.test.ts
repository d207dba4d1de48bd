/** Odd, but legal: what hardly any image has, and QEMU takes all the same. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { type ImageBuilder, type ImageOptions, image } from '../support/image-builder.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { checkBuiltImage } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { flawOf } from './flaw.js';

const directory = temporaryDirectory();

function holey(options: ImageOptions): ImageBuilder {
  return image({ virtualSize: 64 << 10, ...options })
    .writeRange(0, 20)
    .snapshot('a')
    .writeRange(3, 4)
    .layout({ shuffle: true, junk: 12 });
}

function patched(bytes: Uint8Array, at: number, values: readonly number[]): Uint8Array {
  const copy = Uint8Array.from(bytes);
  copy.set(values, at);
  return copy;
}

const CASES: [string, Uint8Array][] = [
  [
    'header extensions that fill the first cluster, without an end marker',
    holey({
      headerLength: 104,
      extensions: [{ type: 0x7e570001, data: new Uint8Array(400).fill(9) }],
    }).build(),
  ],
  [
    'a header of 200 bytes, with fields that nobody knows',
    patched(
      holey({ headerLength: 200 }).build(),
      112,
      Array.from({ length: 88 }, (_, i) => i + 1),
    ),
  ],
  ['compatible features that nobody knows', patched(holey({}).build(), 80, Array<number>(8).fill(0xff))],
  ['an L1 table of 4,000 entries for a disk of 2', holey({ l1Size: 4000 }).build()],
  ['a disk of no bytes', image({ virtualSize: 0, l1Size: 0 }).layout({ junk: 4 }).build()],
  [
    'a disk of no bytes with an L1 table and what a shrunk disk has left in it',
    image({ virtualSize: 0, l1Size: 3 }).write(5).write(70).layout({ junk: 4, shuffle: true }).build(),
  ],
  [
    'a backing file with a name of 1,023 bytes',
    holey({ clusterBits: 11, backingFile: 'b'.repeat(1023), backingFormat: 'raw' }).build(),
  ],
  ['one host cluster under two entries of one table', holey({}).alias(0, 30).alias(12, 90).build()],
  [
    'entries beyond the end of the disk',
    image({ virtualSize: 8 << 10, l1Size: 3 })
      .writeRange(10, 3)
      .writeRange(130, 4)
      .layout({ junk: 9 })
      .build(),
  ],
];

describe('compacted to the least file', () => {
  test.each(CASES)('%s', async (_, bytes) => {
    const { leaks } = inspect(bytes);
    expect(checkBuiltImage(directory.path('odd.qcow2'), bytes)).toEqual({ corruptions: 0, leaks, errors: 0 });
    expect(inspect(bytes).clusterCount).toBeGreaterThan(minimalClusterCount(bytes));
    expect(await flawOf(bytes, {})).toBeNull();
    expect(await flawOf(bytes, { roundBytes: 1024, keepErased: 3 })).toBeNull();
  });
});

test('65,536 snapshots, as many as there can be', async () => {
  const builder = image({ refcountOrder: 5, virtualSize: 16 << 10 }).writeRange(0, 20);
  for (let i = 0; i < 65_536; i++) builder.snapshot(`s${i}`, { extraSize: 16 });
  const bytes = builder.writeRange(2, 5).layout({ shuffle: true, junk: 5000 }).build();
  const device = new MemoryDevice(bytes);
  const result = await compactDevice(device);
  expect(result).toMatchObject({ snapshotCount: 65_536, excessClusters: 0, leaksLeft: 0 });
  const compacted = device.bytes();
  const { corruptions, leaks, clusterCount } = inspect(compacted);
  expect({ corruptions, leaks, clusterCount }).toEqual({
    corruptions: [],
    leaks: 0,
    clusterCount: minimalClusterCount(bytes),
  });
  expect(compareGuestView(guestView(bytes), compacted)).toBeNull();
});
