/** The oracle reads bitmaps as QEMU does, and sees whatever is lost of them. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { image, type BuiltImage } from '../support/image-builder.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { hasLongTables, readLayout } from '../support/oracle-layout.js';
import { checkImage, dirtyRanges, qemuImg, qemuIo } from '../support/qemu.js';
import { randomImage } from '../support/random-image.js';
import { temporaryDirectory } from './temporary-directory.js';

const directory = temporaryDirectory();
const CLUSTER = 512;

function sample(): BuiltImage {
  return image({ virtualSize: 4 << 20 })
    .write(0)
    .bitmap('a', { granularityBits: 9, entries: ['bits', 'ones'] })
    .bitmap('b', { granularityBits: 9, entries: ['zeroes', 'bits'] })
    .bitmap('c', { inUse: true, auto: false, tableEntries: 100, entries: ['bits', 'zeroes', 'zeroes'] })
    .layout({ shuffle: true, junk: 10, garbageTails: true })
    .buildWithMap();
}

test('what the builder makes is an image with bitmaps to QEMU', () => {
  const path = directory.store('built.qcow2', sample().bytes);
  expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
  const info = JSON.parse(qemuImg('info', '--output=json', path)) as {
    'format-specific': { data: { bitmaps: unknown } };
  };
  expect(info['format-specific'].data.bitmaps).toEqual([
    { name: 'a', granularity: 512, flags: ['auto'] },
    { name: 'b', granularity: 512, flags: ['auto'] },
    { name: 'c', granularity: 65536, flags: ['in-use'] },
  ]);
});

test('QEMU reads the bits that the builder wrote', async () => {
  const built = sample();
  const path = directory.store('built.qcow2', built.bytes);
  // The first 4096 bits of a are its own, the others all ones; of b the first are zeroes.
  const own = (name: string) => built.bytes.subarray(built.where(name) * CLUSTER).subarray(0, CLUSTER);
  const isSet = (bits: Uint8Array, index: number) => ((bits[index >> 3]! >> (index & 7)) & 1) === 1;
  const [a, b] = [await dirtyRanges(path, 'a'), await dirtyRanges(path, 'b')];
  for (let bit = 0; bit < 4096; bit++) {
    expect(isDirty(a, bit * 512)).toBe(isSet(own('bits a:0'), bit));
    expect(isDirty(b, (4096 + bit) * 512)).toBe(isSet(own('bits b:1'), bit));
  }
  expect(isDirty(a, 3 << 20)).toBe(true);
  expect(isDirty(b, 1 << 20)).toBe(false);
});

function isDirty(ranges: readonly { start: number; end: number }[], offset: number): boolean {
  return ranges.some(({ start, end }) => start <= offset && offset < end);
}

test.each([512, 4096, 65536, 2097152])(
  'bitmaps made by QEMU inspect clean, clusters of %i',
  (clusterSize) => {
    const path = directory.path('made.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=${clusterSize}`, path, '300M');
    for (const [name, granularity] of Object.entries({ fine: 512, coarse: 1 << 20 })) {
      qemuImg('bitmap', '--add', '-g', String(granularity), path, name);
    }
    qemuIo(path, ['write -P 1 0 300k', 'write -P 2 200M 70k']);
    const bytes = readFileSync(path);
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
    expect(inspect(bytes)).toMatchObject({ corruptions: [], leaks: 0 });
    expect(guestView(bytes).layout.bitmaps?.bitmaps).toHaveLength(2);
  },
);

describe('the oracle sees', () => {
  const flip = (built: BuiltImage, name: string, at: number, bits = 1) => {
    built.bytes[built.where(name) * CLUSTER + at]! ^= bits;
  };
  test.each<[string, RegExp, (built: BuiltImage) => void]>([
    ['a bit of a bitmap', /bitmap 0, entry 0: the bits differ/, (b) => flip(b, 'bits a:0', 511)],
    ['a bit of one in use', /bitmap 2, entry 99: the bits differ/, (b) => flip(b, 'bits c:99', 0)],
    ['ones that became zeroes', /bitmap 0, entry 1: the bits differ/, (b) => flip(b, 'bitmap table a', 15)],
    ['zeroes that became ones', /bitmap 1, entry 0: the bits differ/, (b) => flip(b, 'bitmap table b', 7)],
    ['bits that are gone', /bitmap 1, entry 1/, (b) => b.bytes.fill(0, tableB(b), tableB(b) + 8)],
    ['a flag', /entry 2 of the bitmap directory differs/, (b) => flip(b, 'bitmap directory', 64 + 15)],
    ['a name', /entry 1 of the bitmap directory differs/, (b) => flip(b, 'bitmap directory', 32 + 24, 3)],
    ['a granularity', /entry 0 of the bitmap directory differs/, (b) => flip(b, 'bitmap directory', 17, 2)],
    ['the number of bitmaps', /header cluster differs/, (b) => (b.bytes[123] = 2)],
    ['the length of the directory', /header cluster differs/, (b) => (b.bytes[135]! += 8)],
    ['the autoclear bit', /header cluster differs/, (b) => (b.bytes[95] = 0)],
    ['a directory elsewhere', /the bitmaps are gone/, (b) => (b.bytes[141] = 1)],
  ])('%s', (_, expected, change) => {
    const built = sample();
    const view = guestView(built.bytes);
    expect(compareGuestView(view, built.bytes)).toBeNull();
    change(built);
    expect(compareGuestView(view, built.bytes)).toMatch(expected);
  });

  const tableB = (built: BuiltImage) => built.where('bitmap table b') * CLUSTER + 8;
});

test('what is left over when bitmaps are not walked is a leak, and the other way round a corruption', () => {
  const built = sample();
  const { leaks, liveClusters } = inspect(built.bytes);
  expect(leaks).toBe(0);
  // Directory, three tables of which one has two clusters, bits of 1 + 1 + 34 clusters.
  const without = built.bytes.slice();
  without[95] = 0;
  without.fill(0, 112, 152);
  expect(inspect(without)).toMatchObject({
    corruptions: [],
    leaks: 1 + 4 + 36,
    liveClusters: liveClusters - 41,
  });
  expect(minimalClusterCount(built.bytes) - minimalClusterCount(without)).toBeGreaterThanOrEqual(41);
  const layout = readLayout(built.bytes);
  expect(typeof layout !== 'string' && hasLongTables(layout)).toBe(true);
});

test('some random images have bitmaps, and where they are asked for all that have a disk', () => {
  const seeds = [...Array(60).keys()];
  const has = (bytes: Uint8Array) => guestView(bytes).layout.bitmaps !== null;
  const found = seeds.filter((seed) => has(randomImage(seed).bytes)).length;
  expect(found).toBeGreaterThan(1);
  expect(found).toBeLessThan(20);
  for (const seed of seeds) {
    const asked = randomImage(seed, { version: 3, bitmaps: true });
    const { bitmaps, virtualSize } = guestView(asked.bytes).layout;
    expect(bitmaps !== null, asked.description).toBe(virtualSize > 0);
  }
});
