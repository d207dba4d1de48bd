import { describe, expect, test } from 'vitest';
import { openImage } from '../../src/image/image.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { image } from '../support/image-builder.js';
import { type ImageLayout, readLayout } from '../support/oracle-layout.js';
import { opened, withWord } from './opened.js';

describe('opening', () => {
  test('knows where every table is', async () => {
    const built = image({ clusterBits: 9, l1Size: 70 }).write(0).snapshot('a').snapshot('b').buildWithMap();
    const { image: found } = await opened(built.bytes);
    expect(found.header.l1Offset).toBe(built.where('L1') * 512);
    expect(found.refcounts.tableOffset).toBe(built.where('refcount table') * 512);
    expect(found.refcounts.blocks[0]).toBe(built.where('refcount block 0') * 512);
    expect(found.snapshots.map(({ l1Offset }) => l1Offset)).toEqual(
      ['L1 of 1', 'L1 of 2'].map((name) => built.where(name) * 512),
    );
    expect(found.snapshotTableClusters).toBe(1);
    expect(found.fileClusters).toBe(built.bytes.length / 512);
  });

  test('a snapshot table whose length is far from what was guessed', async () => {
    const builder = image({ clusterBits: 9 }).write(0);
    for (let i = 0; i < 6; i++) builder.snapshot(`s${'x'.repeat(200)}${i}`, { extraSize: 1024 });
    const { image: found } = await opened(builder.build());
    expect(found.snapshots).toHaveLength(6);
    expect(found.snapshotTableClusters).toBe(Math.ceil((6 * 40 + 6 * 1024 + 6 * 204 + 20) / 512));
  });

  test('a file that ends within its last cluster has that cluster', async () => {
    const bytes = image({ clusterBits: 12 }).writeRange(0, 2).build();
    expect((await opened(bytes.subarray(0, bytes.length - 4095))).image.fileClusters).toBe(
      bytes.length / 4096,
    );
  });

  const built = image({ clusterBits: 12 }).write(0).snapshot('a').buildWithMap();
  const table = built.where('refcount table') * 4096;
  const snapshots = built.where('snapshot table') * 4096;

  test.each([
    [
      'a refcount table beyond the end',
      withWord(built.bytes, 48, () => 0x100000n),
      /refcount table reaches beyond the end.*0x100000/,
    ],
    [
      'a refcount table of 8 MiB in a small file',
      withWord(built.bytes, 56, (w) => (w & 0xffffffffn) | (2048n << 32n)),
      /refcount table reaches beyond/,
    ],
    [
      'an L1 table beyond the end',
      withWord(built.bytes, 40, () => 0x100000n),
      /L1 table reaches beyond the end/,
    ],
    [
      'an L1 table of 32 MiB in a small file',
      withWord(built.bytes, 32, (w) => (w & ~0xffffffffn) | 0x400000n),
      /L1 table reaches beyond/,
    ],
    [
      'a refcount block beyond the end',
      withWord(built.bytes, table, () => 0x100000n),
      /refcount block lies beyond the end.*entry 0/,
    ],
    [
      'an unaligned refcount block',
      withWord(built.bytes, table, (w) => w + 512n),
      /not aligned.*refcount table at 0x1000, entry 0/,
    ],
    [
      'reserved bits of the refcount table',
      withWord(built.bytes, table + 24, () => 1n),
      /reserved bits.*entry 3/,
    ],
    [
      'a snapshot table beyond the end',
      withWord(built.bytes, 64, () => 0x100000n),
      /snapshot table entry 0 lies beyond the end/,
    ],
    [
      '65536 snapshots in a small file',
      withWord(built.bytes, 56, (w) => (w & ~0xffffffffn) | 65536n),
      /snapshot table entry \d+/,
    ],
    [
      'a snapshot with an L1 table beyond the end',
      withWord(built.bytes, snapshots, () => 0x100000n),
      /L1 table of snapshot 0 reaches beyond/,
    ],
    [
      'a snapshot with an unaligned L1 table',
      withWord(built.bytes, snapshots, (w) => w + 512n),
      /L1 table of snapshot 0 is not at a cluster/,
    ],
    [
      'a snapshot with its L1 table at the header',
      withWord(built.bytes, snapshots, () => 0n),
      /L1 table of snapshot 0 is not at a cluster/,
    ],
    [
      'a snapshot with an offset that no number holds',
      withWord(built.bytes, snapshots, () => 1n << 60n),
      /L1 table of snapshot 0 is not at a cluster/,
    ],
  ])('refuses %s and writes nothing', async (_, bytes, message) => {
    const recorder = new RecordingDevice(new MemoryDevice(bytes));
    const opening = openImage(recorder);
    await expect(opening).rejects.toThrow(message);
    await expect(opening).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(recorder.log).toEqual([]);
    // No number in the file drives what is read.
    expect(recorder.bytesRead).toBeLessThan(10 * bytes.length);
  });

  test('L1 tables that overlap are refused before they are read once for each snapshot', async () => {
    const builder = image({ virtualSize: 4096 << 10 }).write(0);
    for (let index = 0; index < 40; index++) builder.snapshot(`s${index}`);
    const bytes = builder.build();
    const view = new DataView(bytes.buffer);
    const { snapshots, snapshotsOffset } = readLayout(bytes) as ImageLayout;
    const place = view.getBigUint64(snapshotsOffset + snapshots[0]!.start);
    for (const { start } of snapshots) view.setBigUint64(snapshotsOffset + start, place);
    const device = new RecordingDevice(new MemoryDevice(bytes));
    await expect(openImage(device)).rejects.toThrow(
      /two L1 tables overlap at 0x[0-9a-f]+ \(snapshot table at/,
    );
    expect(device.bytesRead).toBeLessThan(2 * bytes.length);
  });

  test('a file so sparse that arrays for its clusters would not fit costs nothing', async () => {
    const bytes = image({ clusterBits: 9 }).write(0).build();
    const device = new MemoryDevice(bytes);
    const huge = new Proxy(device, {
      get: (target, key) => {
        if (key === 'lengthBytes') return 2 ** 45;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
    const found = await openImage(huge);
    expect(found.fileClusters).toBe(2 ** 36);
    expect(found.mappedClusters).toBe(256);
  });
});
