/** The barrier before the first change fails: nothing is written, now and later, and nobody is told that it was. */
import { expect, test } from 'vitest';
import { FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { QcowError } from '../../src/errors.js';
import { image } from '../support/image-builder.js';

const builder = () => image({ clusterBits: 12, virtualSize: 64 * 4096, seed: 5 }).write(3);

test.each([
  ['where the file ends with a cluster', builder().build()],
  ['where it ends within one', builder().layout({ partialTail: true }).build().subarray(0, -1000)],
])('%s', async (_, before) => {
  const memory = new MemoryDevice(Uint8Array.from(before));
  const disk = await Qcow2Disk.on(new FaultDevice(memory, { kinds: ['flush'], failAt: 1 }));
  const content = new Uint8Array(4096);
  await disk.read(content, 3 * 4096);
  for (let times = 0; times < 2; times++)
    await expect(disk.write(new Uint8Array(512), 3 * 4096)).rejects.toThrow(QcowError);
  await expect(disk.flush()).rejects.toThrow(QcowError);
  expect(disk.failure).not.toBeNull();
  const after = new Uint8Array(4096);
  await disk.read(after, 3 * 4096);
  expect(after).toEqual(content);
  await expect(disk.close()).rejects.toThrow(QcowError);
  const bytes = new Uint8Array(memory.lengthBytes);
  await memory.read(bytes, 0);
  expect(Buffer.compare(bytes, before)).toBe(0);
});
