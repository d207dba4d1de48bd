/** Where the host refuses a write at an awkward place: the image is valid, and the disk goes on as far as it can. */
import { expect, test } from 'vitest';
import type { ByteRange } from '../../src/device/block-device.js';
import { FaultDevice } from '../../src/device/fault-device.js';
import { ForwardingDevice } from '../../src/device/forwarding-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { systemError } from '../../src/system-error.js';
import { layoutOf } from '../crash/kinds.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';

const CLUSTER = 512;

test('an entry of the refcount table that is on disk though its write failed: its block stays in the file', async () => {
  const initial = image({ clusterBits: 9, refcountOrder: 6, virtualSize: 400 * CLUSTER, seed: 1 })
    .writeRange(0, 40)
    .build();
  const { refcountTableOffset } = layoutOf(initial);
  class WritesAndFails extends ForwardingDevice {
    failed = false;

    override async write(source: Uint8Array, offset: number): Promise<void> {
      await this.inner.write(source, offset);
      if (this.failed || offset !== refcountTableOffset) return;
      this.failed = true;
      throw systemError('EIO', 'write');
    }
  }
  const memory = new MemoryDevice(initial);
  const device = new WritesAndFails(memory);
  const disk = await Qcow2Disk.on(device, { fillBytes: 64 * CLUSTER });
  for (let i = 0; i < 3 && !device.failed; i++)
    await disk.write(new Uint8Array(20 * CLUSTER).fill(5), (60 + 30 * i) * CLUSTER).catch(() => undefined);
  expect(device.failed).toBe(true);
  await disk.close().catch(() => undefined);
  expect(inspect(memory.bytes()).corruptions).toEqual([]);
});

/** A host that has room for so many clusters more, and knows which it has. */
class FullHost extends ForwardingDevice {
  #room: number;
  readonly #has = new Set<number>();

  constructor(initial: Uint8Array, room: number) {
    super(new MemoryDevice(initial));
    this.#room = room;
    for (let at = 0; at < initial.length; at += CLUSTER) this.#has.add(at / CLUSTER);
  }

  #clusters(offset: number, lengthBytes: number): number[] {
    const first = Math.floor(offset / CLUSTER);
    return Array.from({ length: Math.ceil((offset + lengthBytes) / CLUSTER) - first }, (_, i) => first + i);
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    const needed = this.#clusters(offset, source.length).filter((cluster) => !this.#has.has(cluster));
    if (needed.length > this.#room) throw systemError('ENOSPC', 'write');
    this.#room -= needed.length;
    for (const cluster of needed) this.#has.add(cluster);
    await this.inner.write(source, offset);
  }

  override async punch(offset: number, lengthBytes: number): Promise<void> {
    for (const cluster of this.#clusters(offset, lengthBytes)) if (this.#has.delete(cluster)) this.#room++;
    await this.inner.punch(offset, lengthBytes);
  }

  override dataExtent(offset: number, end: number): ByteRange | null {
    const clusters = this.#clusters(offset, Math.min(end, this.lengthBytes) - offset);
    const first = clusters.find((cluster) => this.#has.has(cluster));
    if (first === undefined) return null;
    const hole = clusters.find((cluster) => cluster > first && !this.#has.has(cluster));
    return {
      start: Math.max(offset, first * CLUSTER),
      end: Math.min(end, this.lengthBytes, hole === undefined ? Infinity : hole * CLUSTER),
    };
  }
}

test('on a full host what was accepted can still be flushed, also where it is the first of its table', async () => {
  const perTable = CLUSTER / 8;
  const initial = image({ clusterBits: 9, virtualSize: 40 * perTable * CLUSTER, seed: 1 })
    .writeRange(0, 10)
    .build();
  for (let room = 90; room < 112; room += 3) {
    const host = new FullHost(initial, room);
    const disk = await Qcow2Disk.on(host);
    const written: number[] = [];
    let refused = 0;
    for (let i = 0; i < 200 && refused < 3; i++) {
      const offset = ((i % 40) * perTable + 20 + Math.floor(i / 40)) * CLUSTER;
      await disk.write(new Uint8Array(CLUSTER).fill(7), offset).then(
        () => written.push(offset),
        (error: unknown) => {
          expect(error).toMatchObject({ code: 'NO_SPACE' });
          refused++;
        },
      );
    }
    expect(refused).toBe(3);
    await disk.flush();
    await disk.close();
    const again = await Qcow2Disk.on(host, { readOnly: true });
    const bytes = new Uint8Array(CLUSTER);
    for (const offset of written) {
      await again.read(bytes, offset);
      expect(bytes.every((byte) => byte === 7)).toBe(true);
    }
  }
});

test('a refcount table that could not grow is tried again', async () => {
  const described = 64 * 64;
  const build = (again: number) =>
    image({ seed: 1, refcountOrder: 6, virtualSize: 2300 * CLUSTER })
      .writeRange(0, 2000)
      .snapshot('a')
      .writeRange(0, again)
      .build();
  let initial = build(2000);
  for (let again = 1996; initial.length > (described - 6) * CLUSTER; again -= 4) initial = build(again);
  let grown = 0;
  for (let failAt = 1; failAt <= 40; failAt++) {
    const memory = new MemoryDevice(initial);
    const device = new FaultDevice(memory, { kinds: ['write'], failAt });
    const disk = await Qcow2Disk.on(device, { fillBytes: 64 * CLUSTER });
    const fates: boolean[] = [];
    for (let i = 0; i < 7; i++) {
      const request = disk.write(new Uint8Array(40 * CLUSTER).fill(i + 1), (2000 + 40 * i) * CLUSTER);
      fates.push(
        await request.then(
          () => true,
          (error: unknown) => {
            expect(error).toMatchObject({ code: 'IO' });
            return false;
          },
        ),
      );
    }
    // Where the failure was not final only the one write has failed.
    if (disk.failure === null) {
      expect(fates.filter((done) => !done).length, `write ${failAt}`).toBeLessThan(2);
      await disk.close();
      if (memory.lengthBytes > described * CLUSTER) grown++;
    } else await disk.close().catch(() => undefined);
    expect(inspect(memory.bytes()).corruptions, `write ${failAt}`).toEqual([]);
  }
  expect(grown).toBeGreaterThan(5);
});

test('once a read has failed nothing is put into its buffer any more', async () => {
  const initial = image({ clusterBits: 9, virtualSize: 64 * CLUSTER, seed: 1 })
    .write(0)
    .write(9)
    .write(1)
    .write(8)
    .write(2)
    .layout({ shuffle: true })
    .build();
  class SlowAfterFailure extends ForwardingDevice {
    armed = false;
    count = 0;

    override async read(target: Uint8Array, offset: number): Promise<void> {
      if (this.armed && this.count++ === 0) throw systemError('EIO', 'read');
      if (this.armed) await new Promise((resolve) => setTimeout(resolve, 20));
      await this.inner.read(target, offset);
    }
  }
  const device = new SlowAfterFailure(new MemoryDevice(initial));
  const disk = await Qcow2Disk.on(device, { readOnly: true });
  await disk.read(new Uint8Array(64 * CLUSTER), 0);
  device.armed = true;
  const target = new Uint8Array(10 * CLUSTER);
  await expect(disk.read(target, 0)).rejects.toMatchObject({ code: 'IO' });
  expect(device.count).toBeGreaterThan(1);
  target.fill(0x5a);
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(target.every((byte) => byte === 0x5a)).toBe(true);
});
