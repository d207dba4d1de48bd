import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { image } from '../support/image-builder.js';
import { SECRET } from '../support/luks.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { inOrder } from './harness.js';

test('where the refcount table has hardly an entry left, little steps aside at a time', async () => {
  // 64-bit counts in clusters of 512 bytes: a table of one cluster describes 4096 clusters.
  const bytes = image({ clusterBits: 9, refcountOrder: 6, virtualSize: 7440 * 512, seed: 4 })
    .compressRange(0, 7440)
    .layout({ deadBytes: 0.01 })
    .build();
  expect(inspect(bytes).clusterCount).toBeGreaterThan(4080);
  expect(inspect(bytes).clusterCount).toBeLessThanOrEqual(4096);
  const device = new MemoryDevice(bytes);
  const { bytesToCopy, bytesMoved } = await compactDevice(device, { runtimeAsserts: true });
  const after = inspect(device.bytes());
  expect(after).toMatchObject({ corruptions: [], leaks: 0 });
  // Each window that is cleared may take overlapping extents apart, and a sector is a cluster here.
  expect(after.clusterCount).toBeLessThan(minimalClusterCount(bytes) + 10);
  expect(after.clusterCount).toBeLessThan(inspect(bytes).clusterCount - 10);
  expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
  expect(bytesMoved).toBeGreaterThan(0);
  expect(bytesToCopy).toBeLessThanOrEqual(bytes.length);
});

/** The header of LUKS between compressed extents: they cannot be squeezed through it. */
test('compressed extents around clusters that must stay keep their places, and the result says so', async () => {
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
  const { excessClusters, notices } = await compactDevice(device, { secret: SECRET, runtimeAsserts: true });
  expect(excessClusters).toBeGreaterThan(0);
  expect(notices.join()).toMatch(/compressed data that stand there/);
  expect(inspect(device.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
});
