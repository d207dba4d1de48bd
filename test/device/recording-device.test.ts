import { describe, expect, test } from 'vitest';
import type { BlockDevice } from '../../src/device/block-device.js';
import { FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';

/** A memory device whose writes and flushes wait until the test lets them go. */
class GatedDevice extends MemoryDevice {
  readonly gates: (() => void)[] = [];

  override async write(source: Uint8Array, offset: number): Promise<void> {
    await this.#gate();
    await super.write(source, offset);
  }

  override flush(): Promise<void> {
    return this.#gate();
  }

  #gate(): Promise<void> {
    return new Promise((resolve) => this.gates.push(resolve));
  }
}

const kinds = (device: RecordingDevice): string[] => device.log.map((operation) => operation.kind);

describe('a recording device', () => {
  test('logs what changes the file, in order, and passes it on', async () => {
    const memory = new MemoryDevice(new Uint8Array(1024).fill(1));
    const device = new RecordingDevice(memory);
    await device.write(Uint8Array.of(5, 6), 3);
    await device.flush();
    await device.punch(512, 512);
    await device.truncate(600);
    expect(device.log).toEqual([
      { kind: 'write', offset: 3, bytes: Uint8Array.of(5, 6) },
      { kind: 'flush' },
      { kind: 'punch', offset: 512, length: 512 },
      { kind: 'truncate', length: 600 },
    ]);
    expect(memory.lengthBytes).toBe(600);
    expect(device.lengthBytes).toBe(600);
    expect(memory.bytes()[4]).toBe(6);
  });

  test('counts reads, writes, their bytes, and flushes', async () => {
    const device: RecordingDevice = new RecordingDevice(new MemoryDevice());
    await device.write(new Uint8Array(10), 0);
    await device.write(new Uint8Array(5), 0);
    await device.read(new Uint8Array(3), 0);
    await device.flush();
    const { reads, bytesRead, writes, bytesWritten, flushes } = device;
    expect({ reads, bytesRead, writes, bytesWritten, flushes }).toEqual({
      reads: 1,
      bytesRead: 3,
      writes: 2,
      bytesWritten: 15,
      flushes: 1,
    });
  });

  test('keeps the bytes as they were when the write began', async () => {
    const device = new RecordingDevice(new MemoryDevice());
    const source = Uint8Array.of(1);
    const writing = device.write(source, 0);
    source[0] = 2;
    await writing;
    expect(device.log).toEqual([{ kind: 'write', offset: 0, bytes: Uint8Array.of(1) }]);
  });

  test('logs a write that fails, since part of it may have reached the disk', async () => {
    const device = new RecordingDevice(new FaultDevice(new MemoryDevice(), { failAt: 1, kinds: ['write'] }));
    await expect(device.write(new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'EIO' });
    expect(kinds(device)).toEqual(['write']);
  });

  test('logs no barrier for a flush that fails', async () => {
    const device = new RecordingDevice(new FaultDevice(new MemoryDevice(), { failAt: 1, kinds: ['flush'] }));
    await device.write(new Uint8Array(1), 0);
    await expect(device.flush()).rejects.toMatchObject({ code: 'EIO' });
    await device.write(new Uint8Array(1), 0);
    expect(kinds(device)).toEqual(['write', 'write']);
  });

  test('a write still under way when a flush begins stands behind it', async () => {
    const gated = new GatedDevice();
    const device = new RecordingDevice(gated);
    const first = device.write(Uint8Array.of(1), 0);
    gated.gates[0]?.();
    await first;
    const second = device.write(Uint8Array.of(2), 0);
    const barrier = device.flush();
    gated.gates[1]?.();
    gated.gates[2]?.();
    await Promise.all([second, barrier]);
    expect(device.log).toEqual([
      { kind: 'write', offset: 0, bytes: Uint8Array.of(1) },
      { kind: 'flush' },
      { kind: 'write', offset: 0, bytes: Uint8Array.of(2) },
    ]);
  });

  test('passes on what the device below knows of the host', async () => {
    const memory: BlockDevice = new MemoryDevice(new Uint8Array(512), { canPunch: false, freeBytes: 7 });
    const device = new RecordingDevice(memory);
    expect(device.canPunch).toBe(false);
    expect(await device.freeBytes()).toBe(7);
    expect(device.allocatedBytes()).toBe(512);
    expect(device.dataExtent(0, 512)).toEqual({ start: 0, end: 512 });
    await device.close();
  });
});
