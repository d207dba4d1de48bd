import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { image } from '../support/image-builder.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';

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
  expect(after.clusterCount).toBe(minimalClusterCount(bytes));
  expect(after.clusterCount).toBeLessThan(inspect(bytes).clusterCount - 10);
  expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
  // What steps aside is copied twice, in steps that are smaller than was thought.
  expect(bytesMoved).toBeGreaterThan(bytesToCopy / 2);
  expect(bytesMoved).toBeLessThan(bytesToCopy * 1.5);
});
