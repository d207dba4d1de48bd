/** A request that needs nothing of the host leaves it turns of the event loop all the same. */
import { expect, onTestFinished, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { image } from '../support/image-builder.js';
import { countTurns } from '../support/turns.js';

const CLUSTER = 512;
const CLUSTERS = 60_000;

/** Every second cluster is there, and all tables are in memory. */
async function fragmented(): Promise<Qcow2Disk> {
  const builder = image({ clusterBits: 9, virtualSize: CLUSTERS * CLUSTER, seed: 1 });
  for (let cluster = 0; cluster < CLUSTERS; cluster += 2) builder.write(cluster);
  const disk = await Qcow2Disk.on(new MemoryDevice(builder.build()));
  onTestFinished(() => disk.close());
  await disk.blockStatus(0, disk.sizeBytes);
  return disk;
}

test('a look at many stretches, of which no more are told than asked for', async () => {
  const disk = await fragmented();
  const turns = countTurns();
  expect(await disk.blockStatus(0, disk.sizeBytes)).toHaveLength(CLUSTERS);
  expect(turns()).toBeGreaterThan(1);
  const some = await disk.blockStatus(CLUSTER, disk.sizeBytes - CLUSTER, 3);
  expect(some.map(({ offset, lengthBytes, isZero }) => [offset, lengthBytes, isZero])).toEqual([
    [CLUSTER, CLUSTER, true],
    [2 * CLUSTER, CLUSTER, false],
    [3 * CLUSTER, CLUSTER, true],
  ]);
});

test('zeroes where much is to be looked at', async () => {
  const disk = await fragmented();
  await disk.discard(0, disk.sizeBytes);
  const turns = countTurns();
  for (let times = 0; times < 4; times++) await disk.discard(0, disk.sizeBytes);
  expect(turns()).toBeGreaterThan(1);
  expect(await disk.blockStatus(0, disk.sizeBytes)).toEqual([
    { offset: 0, lengthBytes: disk.sizeBytes, isAllocated: false, isZero: true },
  ]);
});

test('where no table is, whole ranges are passed over', async () => {
  const builder = image({ clusterBits: 9, virtualSize: CLUSTERS * CLUSTER, seed: 1 });
  const device = new MemoryDevice(
    builder
      .write(0)
      .write(CLUSTERS - 1)
      .build(),
  );
  const disk = await Qcow2Disk.on(device);
  onTestFinished(() => disk.close());
  const status = await disk.blockStatus(0, disk.sizeBytes);
  expect(status.map(({ lengthBytes, isZero }) => [lengthBytes / CLUSTER, isZero])).toEqual([
    [1, false],
    [CLUSTERS - 2, true],
    [1, false],
  ]);
  await disk.discard(CLUSTER, disk.sizeBytes - 2 * CLUSTER);
  await disk.discard(0, disk.sizeBytes);
  expect(await disk.blockStatus(0, disk.sizeBytes)).toHaveLength(1);
  expect(disk.cachedTables).toBe(2);
});
