/** A host that is nearly full: moves that only put refcounts right must not use up what is left of it (I10). */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice, type MemoryDeviceOptions } from '../../src/device/memory-device.js';
import { systemError } from '../../src/system-error.js';
import { image } from '../support/image-builder.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';

const MIB = 1 << 20;

/** A file on a host with so many bytes left: what it allocates is taken from them. */
class CrowdedDevice extends MemoryDevice {
  readonly #capacity: number;
  peakAllocated = 0;

  constructor(bytes: Uint8Array, freeBytes: number, options: MemoryDeviceOptions, holes: [number, number][]) {
    super(bytes, { canPunch: true });
    for (const [offset, length] of holes) void super.punch(offset, length);
    this.#capacity = this.allocatedBytes() + freeBytes;
    Object.defineProperty(this, 'canPunch', { value: options.canPunch ?? true });
  }

  override freeBytes(): Promise<number> {
    return Promise.resolve(this.#capacity - this.allocatedBytes());
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    const end = offset + source.length;
    let hole = source.length;
    for (let data = this.dataExtent(offset, end); data !== null; data = this.dataExtent(data.end, end)) {
      hole -= data.end - data.start;
    }
    if (this.allocatedBytes() + hole > this.#capacity) throw systemError('ENOSPC', 'write');
    await super.write(source, offset);
    this.peakAllocated = Math.max(this.peakAllocated, this.allocatedBytes());
  }
}

/** 300 clusters of 64 KiB whose count is 2 and whose entry lacks COPIED, as a snapshot's unfinished deletion leaves them. */
function halfDeleted(junk: number): { bytes: Uint8Array; holes: [number, number][] } {
  const { bytes, units } = image({ clusterBits: 16 })
    .writeRange(0, 300)
    .snapshot('a')
    .deleteSnapshot('a', { interrupted: true })
    .layout({ junk, junkAtEnd: 10 })
    .buildWithMap();
  const holes = units
    .filter(({ name }) => name.startsWith('junk'))
    .map(({ at, clusters }): [number, number] => [at << 16, clusters << 16]);
  return { bytes, holes };
}

describe.each([0, 40])('%i holes of the host file among the clusters', (junk) => {
  test('all leaks are reclaimed in rounds that the host has room for', async () => {
    const { bytes, holes } = halfDeleted(junk);
    const device = new CrowdedDevice(bytes, 2 * MIB, {}, holes);
    const before = device.allocatedBytes();
    const result = await compactDevice(device, { runtimeAsserts: true });
    const after = inspect(device.bytes());
    expect(after).toMatchObject({ corruptions: [], leaks: 0, clusterCount: minimalClusterCount(bytes) });
    expect(result.leaksReclaimed).toBe(inspect(bytes).leaks);
    expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
    // A round of half of what is free, and the refcounts.
    expect(device.peakAllocated - before).toBeLessThan(1.3 * MIB);
    expect(device.allocatedBytes()).toBeLessThanOrEqual(before);
  });

  test('where the host cannot punch, they are left before it is full, and said', async () => {
    const { bytes, holes } = halfDeleted(junk);
    const device = new CrowdedDevice(bytes, 2 * MIB, { canPunch: false }, holes);
    const { leaks } = inspect(bytes);
    let left = leaks;
    for (let run = 0; run < 5; run++) {
      const result = await compactDevice(device, { runtimeAsserts: true });
      const after = inspect(device.bytes());
      expect(after.corruptions).toEqual([]);
      expect(after.leaks).toBeLessThanOrEqual(left);
      expect(result.leaksReclaimed).toBe(left - after.leaks);
      expect(result.notices.join('\n')).toContain(`${after.leaks} clusters keep refcounts that are too high`);
      left = after.leaks;
    }
    expect(left).toBeLessThan(leaks);
    expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
  });

  test('with no room at all the rest of the job is done', async () => {
    const { bytes, holes } = halfDeleted(junk);
    const device = new CrowdedDevice(bytes, 0, {}, junk === 0 ? holes : []);
    const before = device.lengthBytes;
    const result = await compactDevice(device, { runtimeAsserts: true });
    expect(inspect(device.bytes()).corruptions).toEqual([]);
    expect(device.lengthBytes).toBeLessThan(before);
    expect(result.outcome).toBe('compacted');
    expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
  });
});
