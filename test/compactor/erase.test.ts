import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { compact } from '../../src/compactor/compact.js';
import { eraseDevice, eraseJunk } from '../../src/compactor/erase.js';
import type { ByteRange } from '../../src/device/block-device.js';
import { ForwardingDevice } from '../../src/device/forwarding-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { temporaryPath } from '../device/temporary-directory.js';
import { inOrder } from '../recycler/harness.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';

const PIB = 2 ** 50;

/** A file that ends in a hole. */
class EndlessDevice extends ForwardingDevice {
  asked = 0;
  readonly #lengthBytes: number;

  constructor(inner: MemoryDevice, holeBytes: number) {
    super(inner);
    this.#lengthBytes = inner.lengthBytes + holeBytes;
  }

  override get lengthBytes(): number {
    return this.#lengthBytes;
  }

  override dataExtent(offset: number, end: number): ByteRange | null {
    this.asked++;
    if (this.asked > 1000) throw new Error('it steps through the hole');
    return super.dataExtent(offset, end);
  }
}

/** Junk between what is live, none of it zero. */
function junkWithin() {
  return image({ clusterBits: 9 })
    .writeRange(0, 8)
    .layout({ junk: 30, arrange: inOrder('refcount', 'L', 'junk', 'data') })
    .build();
}

test('a hole of 4 PiB is jumped over', async () => {
  const bytes = junkWithin();
  const memory = new MemoryDevice(bytes);
  const result = await eraseDevice(new EndlessDevice(memory, 4 * PIB));
  expect(result).toMatchObject({ outcome: 'erased', clustersErased: 30 + (4 * PIB) / 512 });
  expect(result.clustersAlreadyHoles).toBe((4 * PIB) / 512);
  expect(inspect(memory.bytes()).corruptions).toEqual([]);
});

test('as many clusters of a hole as are asked for count as erased', async () => {
  const device = new EndlessDevice(new MemoryDevice(junkWithin()), 4 * PIB);
  const result = await eraseDevice(device, { keepErased: 1030 });
  expect(result).toMatchObject({ clustersErased: 1030, clustersAlreadyHoles: 1000 });
});

describe('punching where clusters are smaller than the blocks of the host', () => {
  test('a second run finds nothing to do', async () => {
    const memory = new MemoryDevice(junkWithin(), { blockBytes: 4096 });
    const before = memory.allocatedBytes();
    const first = await eraseDevice(memory, { punch: true });
    expect(first).toMatchObject({ outcome: 'erased', clustersErased: 30, method: 'punch' });
    // Two blocks at least lie wholly in 15 KiB of junk.
    expect(memory.allocatedBytes()).toBeLessThanOrEqual(before - 8192);
    const second = await eraseDevice(memory, { punch: true });
    expect(second).toMatchObject({ outcome: 'clean', clustersErased: 30, bytesWritten: 0 });
  });

  test('junk that reads as zeroes is given back where it is a whole block', async () => {
    const memory = new MemoryDevice(junkWithin(), { blockBytes: 4096 });
    await eraseDevice(memory);
    const before = memory.allocatedBytes();
    await eraseDevice(memory, { punch: true });
    expect(memory.allocatedBytes()).toBeLessThanOrEqual(before - 8192);
  });

  test('nor does it on a real file', async (context) => {
    const path = temporaryPath('image.qcow2');
    fs.writeFileSync(path, junkWithin());
    const first = await eraseJunk(path, { punch: true });
    context.skip(first.method !== 'punch', 'this host cannot punch holes');
    expect(first.outcome).toBe('erased');
    expect((await eraseJunk(path, { punch: true })).outcome).toBe('clean');
  });
});

describe('asking for --punch', () => {
  test.each([
    ['a compaction', compact],
    ['an erasure', eraseJunk],
  ])('leaves the times of a file alone where %s has nothing to punch', async (_, command) => {
    const path = temporaryPath('image.qcow2');
    fs.writeFileSync(path, image({ clusterBits: 16 }).writeRange(0, 3).layout({}).build());
    fs.utimesSync(path, 1000, 1000);
    const result = await command(path, { punch: true });
    expect(result).toMatchObject({ outcome: 'clean' });
    expect(fs.statSync(path).mtimeMs).toBe(1_000_000);
  });

  test('says so once where the host cannot, and writes zeroes', async () => {
    const memory = new MemoryDevice(junkWithin(), { canPunch: false });
    const result = await eraseDevice(memory, { punch: true });
    expect(result).toMatchObject({ outcome: 'erased', method: 'write', clustersErased: 30 });
    expect(result.notices).toEqual([expect.stringContaining('cannot deallocate blocks')]);
  });
});
