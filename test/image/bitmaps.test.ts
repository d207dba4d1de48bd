/** Persistent bitmaps are walked, every cluster of them, and damaged ones are found before anything is written. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { Kind } from '../../src/image/host-clusters.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { opened, withWord } from './opened.js';

const CLUSTER = 512;
const built = image()
  .write(0)
  .bitmap('short', { granularityBits: 9 })
  .bitmap('x'.repeat(700), { inUse: true, tableEntries: 130, entries: ['bits', 'zeroes', 'ones', 'zeroes'] })
  .layout({ junkAtEnd: 2 })
  .buildWithMap();
const directory = built.where('bitmap directory') * CLUSTER;
const short = built.where('bitmap table short') * CLUSTER;
const long = built.where(`bitmap table ${'x'.repeat(700)}`) * CLUSTER;
/** The field of the directory's offset: extensions begin at 112, the data of the first at 120. */
const SLOT = 136;

test('each cluster has its kind and one reference', async () => {
  const { walked, image: found } = await opened(built.bytes);
  expect(walked.findings).toEqual({ corruptions: 0, leaks: 0, words: [] });
  const { clusters } = walked;
  const expectKind = (offset: number, count: number, kind: Kind) => {
    for (let cluster = offset / CLUSTER; cluster < offset / CLUSTER + count; cluster++) {
      expect([clusters.kind(cluster), clusters.refs[cluster], clusters.needsFlag(cluster)]).toEqual([
        kind,
        1,
        false,
      ]);
    }
  };
  expectKind(directory, 2, Kind.bitmapDirectory);
  expectKind(short, 1, Kind.bitmapTable);
  expectKind(long, 3, Kind.bitmapTable);
  expectKind(built.where('bits short:0') * CLUSTER, 1, Kind.bitmapData);
  expectKind(built.where(`bits ${'x'.repeat(700)}:128`) * CLUSTER, 1, Kind.bitmapData);
  expect([...clusters.ofKind(Kind.bitmapData)]).toHaveLength(1 + 33);
  expect(found.bitmaps?.entries.map(({ tableOffset }) => tableOffset)).toEqual([short, long]);
  expect(walked.live).toBe(inspect(built.bytes).liveClusters);
});

describe('the walk finds', () => {
  test.each([
    ['reserved bits', long, (word: bigint) => word | 4n],
    ['what is COPIED elsewhere', long, (word: bigint) => word | (1n << 63n)],
    ['a cluster that is all ones', long, (word: bigint) => word | 1n],
    ['bits beyond the end of the file', long + 8, () => 0x100_0000n],
    ['bits where the L1 table is', long, () => BigInt(built.where('L1') * CLUSTER)],
    ['bits of another bitmap', long, () => BigInt(built.where('bits short:0') * CLUSTER)],
    ['a table that two bitmaps have', directory + 32, () => BigInt(short)],
    ['the directory as a table', directory, () => BigInt(directory)],
    ['a directory elsewhere in data', SLOT, () => BigInt(built.where('data active:0') * CLUSTER)],
  ])('%s', async (_, at, change) => {
    await expectRefused(withWord(built.bytes, at, change));
  });

  test('a refcount of bits that is too low', async () => {
    const at = built.where('refcount block 0') * CLUSTER + 2 * built.where('bits short:0');
    const bytes = built.bytes.slice();
    bytes.set([0, 0], at);
    await expectRefused(bytes);
  });
});

describe('opening refuses', () => {
  test.each([
    ['a directory beyond the end', SLOT, () => 0x100_0000n, /bitmap directory reaches beyond the end/],
    ['a directory of 63 MiB in a small file', SLOT - 8, () => 63n << 20n, /bitmap directory reaches beyond/],
    ['a table beyond the end', directory, () => 0x100_0000n, /table of bitmap 0 reaches beyond the end/],
    [
      'a table of a million entries in a small file',
      directory + 32 + 8,
      (word: bigint) => (word & 0xffff_ffffn) | (1n << 52n),
      /table of bitmap 1 reaches beyond/,
    ],
  ])('%s', async (_, at, change, message) => {
    const bytes = withWord(built.bytes, at, change);
    const recorder = new RecordingDevice(new MemoryDevice(bytes));
    const run = compactDevice(recorder);
    await expect(run).rejects.toThrow(message);
    await expect(run).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(recorder.log).toEqual([]);
    expect(recorder.bytesRead).toBeLessThan(4 * bytes.length);
  });

  test('tables that overlap, before they are read again and again', async () => {
    const builder = image();
    for (let index = 0; index < 40; index++) builder.bitmap(`b${index}`, { inUse: true, tableEntries: 1 });
    const many = builder.layout({ junkAtEnd: 0 }).buildWithMap();
    const bytes = many.bytes.slice();
    const view = new DataView(bytes.buffer);
    const last = many.where('bitmap table b0') * CLUSTER;
    for (let index = 0; index < 40; index++) {
      const entry = many.where('bitmap directory') * CLUSTER + index * 32;
      view.setBigUint64(entry, BigInt(last));
      view.setUint32(entry + 8, 64 * 4);
    }
    await expect(compactDevice(new MemoryDevice(bytes))).rejects.toThrow(/two bitmap tables overlap/);
  });
});

async function expectRefused(bytes: Uint8Array): Promise<void> {
  expect(inspect(bytes).corruptions).not.toEqual([]);
  const device = new MemoryDevice(bytes);
  await expect(compactDevice(device)).rejects.toMatchObject({ code: 'CORRUPT' });
  expect(Buffer.compare(device.bytes(), bytes)).toBe(0);
}
