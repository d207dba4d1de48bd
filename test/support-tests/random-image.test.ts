import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { planDevice } from '../../src/compactor/plan.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import {
  compareGuestView,
  extentSectors,
  guestView,
  inspect,
  minimalClusterCount,
  readGuest,
} from '../support/oracle.js';
import { checkImage, qemuImg } from '../support/qemu.js';
import { randomImage } from '../support/random-image.js';
import { temporaryDirectory } from './temporary-directory.js';

const directory = temporaryDirectory();
const SEEDS = Array.from({ length: 300 }, (_, index) => index + 1);
/** The images of these are read by QEMU too, snapshots included. */
const READ_SEEDS = SEEDS.filter((seed) => seed % 10 === 0);

/** Half as many have compressed clusters. */
const COMPRESSED_SEEDS = SEEDS.slice(0, SEEDS.length / 2);

test.each([
  { seeds: SEEDS, compressed: false },
  { seeds: COMPRESSED_SEEDS, compressed: true },
])('qemu-img and the oracle agree on random images, compressed: $compressed', ({ seeds, compressed }) => {
  for (const seed of seeds) {
    const { bytes, description } = randomImage(seed, { compressed });
    const { corruptions, leaks, liveClusters, clusterCount } = inspect(bytes);
    expect(corruptions, description).toEqual([]);
    const check = checkImage(directory.store('random.qcow2', bytes));
    expect(check, description).toEqual({ corruptions: 0, leaks, errors: 0 });
    expect(compareGuestView(guestView(bytes), bytes), description).toBeNull();
    expect(minimalClusterCount(bytes), description).toBeLessThanOrEqual(Math.max(liveClusters, clusterCount));
  }
});

test.each([false, true])(
  'QEMU reads from random images what the oracle reads, compressed: %s',
  (compressed) => {
    let snapshotsRead = 0;
    for (const seed of READ_SEEDS) {
      const { bytes, description, hasBackingFile } = randomImage(seed, { compressed });
      const view = guestView(bytes);
      if (hasBackingFile || view.layout.virtualSize > 64 << 20 || view.layout.compressionType !== 0) {
        continue;
      }
      const path = directory.store('read.qcow2', bytes);
      for (const layer of [-1, ...view.layout.snapshots.keys()]) {
        const id = view.layout.snapshots[layer]?.id;
        const select = id === undefined ? [] : ['-l', `snapshot.id=${id}`];
        qemuImg('convert', '-f', 'qcow2', '-O', 'raw', ...select, path, directory.path('read.raw'));
        const same = Buffer.compare(readFileSync(directory.path('read.raw')), readGuest(view, layer)) === 0;
        expect(same, `layer ${layer}: ${description}`).toBe(true);
        snapshotsRead += layer < 0 ? 0 : 1;
      }
    }
    expect(snapshotsRead).toBeGreaterThan(compressed ? 10 : 15);
  },
);

test('the same seed gives the same image', () => {
  expect(Buffer.compare(randomImage(17).bytes, randomImage(17).bytes)).toBe(0);
  expect(randomImage(17).description).toBe(randomImage(17).description);
});

describe('overrides', () => {
  test('clean: refcounts are exactly the references', () => {
    for (let seed = 1; seed <= 100; seed++) {
      const { bytes, description } = randomImage(seed, { clean: true, compressed: seed % 2 === 0 });
      expect(inspect(bytes), description).toMatchObject({
        corruptions: [],
        leaks: 0,
        staleRefcountsPastEnd: 0,
      });
    }
  });

  test('the format', () => {
    for (const clusterBits of [9, 12, 16]) {
      for (const refcountOrder of [0, 1, 2, 3, 4, 5, 6]) {
        const { bytes } = randomImage(3, { clusterBits, refcountOrder, version: 3 });
        expect([bytes[7], bytes[23], bytes[99]]).toEqual([3, clusterBits, refcountOrder]);
        expect(inspect(bytes).corruptions).toEqual([]);
      }
    }
    expect(randomImage(3, { version: 2 }).bytes[7]).toBe(2);
  });

  test('the size', () => {
    for (let seed = 1; seed <= 50; seed++) {
      const size = { maxClusters: 60, clusterBits: 9 };
      const { clusterCount } = inspect(randomImage(seed, { ...size, compressed: false }).bytes);
      expect(clusterCount).toBeLessThan(120);
      // Dead bytes come on top.
      const compressed = inspect(randomImage(seed, { ...size, compressed: true }).bytes);
      expect(compressed.clusterCount).toBeLessThan(240);
    }
  });

  test('compressed: none, or some in nearly each image', () => {
    const withExtents = (compressed: boolean) =>
      COMPRESSED_SEEDS.filter((seed) => extentSectors(randomImage(seed, { compressed }).bytes) > 0).length;
    expect(withExtents(false)).toBe(0);
    expect(withExtents(true)).toBeGreaterThan(COMPRESSED_SEEDS.length * 0.8);
  });

  test('the layout', () => {
    const { bytes } = randomImage(9, { clean: true, layout: { leaks: 3 } });
    expect(inspect(bytes).leaks).toBe(3);
  });
});

test('each feature turns up often', () => {
  const features: Record<string, RegExp> = {
    'version 2': /"version":2/,
    'one-bit refcounts': /"refcountOrder":0/,
    '64-bit refcounts': /"refcountOrder":6/,
    'large clusters': /"clusterBits":16/,
    'backing file': /backingFile/,
    'zero clusters': /zero \d+,/,
    'allocated zero clusters': /allocated/,
    snapshots: /; .*snapshot/,
    'machine state': /state [1-9]/,
    'unknown extra data': /extra 1024/,
    'a snapshot reverted to': /revert/,
    'an interrupted deletion': /interrupted/,
    'two entries for one cluster': /alias/,
    'a half-moved data cluster': /half-moved data/,
    'a half-moved L2 table': /half-moved L2/,
    'a partial last cluster': /"partialTail":true/,
    'blocks past the end': /"blocksPastEnd":[1-9]/,
    'stale counts': /"staleCounts":[1-9]/,
  };
  const compressionFeatures: Record<string, RegExp> = {
    'compressed clusters': /compress \d+/,
    zstd: /"compressionType":"zstd"/,
    'several streams': /"newStreams":0\.\d+/,
    'dead bytes': /"deadBytes":0\.\d+/,
    'a file that ends within a sector': /"compressedTail":true/,
    'compressed clusters in version 2': /"version":2.*compress \d+/,
    'compressed clusters with one-bit refcounts': /"refcountOrder":0.*compress \d+/,
  };
  const expectOften = (signs: Record<string, RegExp>, compressed: boolean): void => {
    const descriptions = SEEDS.map((seed) => randomImage(seed, { compressed }).description);
    for (const [feature, sign] of Object.entries(signs)) {
      expect(descriptions.filter((description) => sign.test(description)).length, feature).toBeGreaterThan(5);
    }
  };
  expectOften(features, false);
  expectOften(compressionFeatures, true);
});

test('a snapshot table at the end of the file is there whole, zeroes at its end included', async () => {
  const overrides = { compressed: true, clean: true, refcountOrder: 6, clusterBits: 9 };
  const { bytes, description } = randomImage(800980, overrides);
  const { snapshots, snapshotsOffset, snapshotsLength } = guestView(bytes).layout;
  expect(snapshots.length, description).toBeGreaterThan(0);
  expect(snapshotsOffset + snapshotsLength).toBeLessThanOrEqual(bytes.length);
  expect(await planDevice(new MemoryDevice(bytes))).toMatchObject({ snapshotCount: snapshots.length });
});
