import { describe, expect, test } from 'vitest';
import { FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';

describe('a fault device', () => {
  test('fails exactly the k-th operation, for every k', async () => {
    const work = [
      (device: FaultDevice) => device.write(new Uint8Array(512).fill(1), 0),
      (device: FaultDevice) => device.read(new Uint8Array(1), 0),
      (device: FaultDevice) => device.flush(),
      (device: FaultDevice) => device.punch(0, 512),
      (device: FaultDevice) => device.truncate(0),
    ];
    for (let failAt = 1; failAt <= work.length; failAt++) {
      const device = new FaultDevice(new MemoryDevice(), { failAt });
      const failed: number[] = [];
      for (const [index, step] of work.entries()) await step(device).catch(() => failed.push(index + 1));
      expect(failed).toEqual([failAt]);
      expect(device.operations).toBe(work.length);
      expect(device.failures).toBe(1);
    }
  });

  test('counts only the chosen kinds', async () => {
    const device = new FaultDevice(new MemoryDevice(), { failAt: 2, kinds: ['flush'] });
    await device.flush();
    await device.write(new Uint8Array(1), 0);
    await device.read(new Uint8Array(1), 0);
    expect(device.operations).toBe(1);
    await expect(device.flush()).rejects.toThrow();
  });

  test('only counts when no operation is to fail', async () => {
    const device = new FaultDevice(new MemoryDevice());
    await device.flush();
    await device.truncate(5);
    expect([device.operations, device.failures]).toEqual([2, 0]);
  });

  test('raises errors that look like those of Node', async () => {
    const device = new FaultDevice(new MemoryDevice(), { failAt: 1, code: 'ENOSPC' });
    await expect(device.write(new Uint8Array(1), 0)).rejects.toMatchObject({
      message: 'ENOSPC: no space left on device, write',
      code: 'ENOSPC',
      errno: -28,
      syscall: 'write',
    });
  });

  test('a failed operation changes nothing', async () => {
    const memory = new MemoryDevice(new Uint8Array(512));
    const device = new FaultDevice(memory, { failAt: 1, repeat: 'sticky' });
    await expect(device.write(new Uint8Array(1024).fill(1), 0)).rejects.toThrow();
    await expect(device.truncate(0)).rejects.toThrow();
    expect(memory.bytes()).toEqual(new Uint8Array(512));
  });

  test('a short write leaves its first half, in whole sectors', async () => {
    const memory = new MemoryDevice(new Uint8Array(2048));
    const device = new FaultDevice(memory, { failAt: 1, mode: 'short' });
    await expect(device.write(new Uint8Array(1536).fill(1), 0)).rejects.toMatchObject({ code: 'EIO' });
    expect(memory.bytes().lastIndexOf(1)).toBe(511);
  });

  test('a short write of one sector writes nothing', async () => {
    const memory = new MemoryDevice();
    const device = new FaultDevice(memory, { failAt: 1, mode: 'short' });
    await expect(device.write(new Uint8Array(512).fill(1), 0)).rejects.toThrow();
    expect(memory.lengthBytes).toBe(0);
  });

  test('fails once and recovers, or fails from then on when sticky', async () => {
    const once = new FaultDevice(new MemoryDevice(), { failAt: 1 });
    await expect(once.flush()).rejects.toThrow();
    await once.flush();
    const sticky = new FaultDevice(new MemoryDevice(), { failAt: 2, repeat: 'sticky' });
    await sticky.flush();
    await expect(sticky.flush()).rejects.toThrow();
    await expect(sticky.flush()).rejects.toThrow();
  });
});
