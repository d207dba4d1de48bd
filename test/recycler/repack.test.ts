import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { type BuiltUnit, image } from '../support/image-builder.js';
import { SECRET } from '../support/luks.js';
import {
  compareGuestView,
  extentSectors,
  guestView,
  inspect,
  minimalClusterCount,
} from '../support/oracle.js';
import type { CompactOptions } from '../../src/compactor/types.js';
import { inOrder } from './harness.js';

/** Compacts to the least file, the guest seeing the same, and says what it did. */
async function compacted(bytes: Uint8Array, options: CompactOptions = {}) {
  const device = new MemoryDevice(bytes);
  const result = await compactDevice(device, { ...options, runtimeAsserts: true });
  const after = inspect(device.bytes());
  expect(after).toMatchObject({ corruptions: [], leaks: 0, clusterCount: minimalClusterCount(bytes) });
  expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
  return { ...result, sectorsAfter: extentSectors(device.bytes()) };
}

test('where the refcount table has hardly an entry left, little steps aside at a time', async () => {
  // 64-bit counts in clusters of 512 bytes: a table of one cluster describes 4096 clusters.
  const bytes = image({ clusterBits: 9, refcountOrder: 6, virtualSize: 7440 * 512, seed: 4 })
    .compressRange(0, 7440)
    .layout({ deadBytes: 0.01 })
    .build();
  expect(inspect(bytes).clusterCount).toBeGreaterThan(4080);
  expect(inspect(bytes).clusterCount).toBeLessThanOrEqual(4096);
  const { bytesToCopy, bytesMoved, lengthBefore, lengthAfter } = await compacted(bytes);
  expect(lengthAfter).toBeLessThan(lengthBefore - 10 * 512);
  // What steps aside is copied twice, in steps that are smaller than was thought.
  expect(bytesMoved).toBeGreaterThan(bytesToCopy / 2);
  expect(bytesMoved).toBeLessThan(bytesToCopy * 1.5);
});

/** The header of LUKS between compressed extents. */
test('compressed extents are squeezed around clusters that must stay', async () => {
  const bytes = image({ encryption: 2, unlockable: true })
    .compressRange(0, 40)
    .writeRange(50, 5)
    .layout({
      deadBytes: 0.4,
      newStreams: 0.2,
      junk: 6,
      arrange: inOrder('compressed 0', 'LUKS', 'compressed', 'junk', 'data'),
    })
    .build();
  const device = new MemoryDevice(bytes);
  const options = { secret: SECRET, runtimeAsserts: true };
  const { excessClusters, lengthBefore, lengthAfter } = await compactDevice(device, options);
  expect(excessClusters).toBe(0);
  expect(lengthAfter).toBeLessThan(lengthBefore);
  const clusterCount = minimalClusterCount(bytes);
  expect(inspect(device.bytes())).toMatchObject({ corruptions: [], leaks: 0, clusterCount });
  expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
});

/** The descriptors of these guest clusters are gone; the counts that are too high now are leaks. */
function discarded(bytes: Uint8Array, first: number, count: number): Uint8Array {
  const copy = Uint8Array.from(bytes);
  const view = new DataView(copy.buffer);
  const l1 = Number(view.getBigUint64(40));
  const l2 = Number(view.getBigUint64(l1) & 0x00ff_ffff_ffff_fe00n);
  copy.fill(0, l2 + first * 8, l2 + (first + count) * 8);
  return copy;
}

test('dead space near the beginning is filled from the end: what is copied is of its order', async () => {
  const whole = image({ clusterBits: 14, virtualSize: 8 << 20, seed: 11 })
    .compressRange(0, 300)
    .build();
  const { bytesMoved, bytesToCopy, clusterBytes, lengthBefore, lengthAfter } = await compacted(
    discarded(whole, 20, 3),
  );
  expect(lengthBefore).toBeGreaterThan(60 * clusterBytes);
  expect(lengthAfter).toBeLessThan(lengthBefore);
  expect(bytesToCopy).toBe(bytesMoved);
  expect(bytesMoved).toBeLessThan(4 * clusterBytes);
});

/** So that clusters of 512 bytes, between which nothing is dead, are taken up by extents and data in turns. */
function inTurns(units: readonly BuiltUnit[]): BuiltUnit[] {
  const isTable = ({ name }: BuiltUnit) => /^L1/.test(name);
  const rest = units.filter((unit) => !isTable(unit));
  return [...rest, ...units.filter(isTable)];
}

test('scattered extents that leave no window for a long table make room for it', async () => {
  const builder = image({ clusterBits: 9, virtualSize: 64 << 10, l1Size: 640, seed: 3 });
  for (let cluster = 0; cluster < 100; cluster++) {
    if (cluster % 4 === 0) builder.compress(cluster);
    else builder.write(cluster);
  }
  const bytes = builder
    .layout({ arrange: inTurns, junk: 30, shuffle: true, newStreams: 1, freshClusters: 1 })
    .build();
  const { excessClusters } = await compacted(bytes);
  expect(excessClusters).toBe(0);
});

test.each([undefined, 65_536, 16_384])(
  'what is said to be copied is what is copied, rounds of %s bytes',
  async (roundBytes) => {
    const bytes = image({ clusterBits: 12, virtualSize: 8 << 20, seed: 8 })
      .compressRange(0, 1000)
      .layout({ deadBytes: 0.2 })
      .build();
    const { bytesToCopy, bytesMoved } = await compacted(
      bytes,
      roundBytes === undefined ? {} : { roundBytes },
    );
    expect(Math.abs(bytesMoved - bytesToCopy)).toBeLessThan(0.01 * bytesToCopy);
  },
);
