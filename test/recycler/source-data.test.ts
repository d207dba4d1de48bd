import { expect, test } from 'vitest';
import type { ByteRange } from '../../src/device/block-device.js';
import { ForwardingDevice } from '../../src/device/forwarding-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { SourceData } from '../../src/recycler/source-data.js';
import { image } from '../support/image-builder.js';
import { inOrder, plannedMoves, rigFor } from './harness.js';

const KIB = 1024;

class CountingDevice extends ForwardingDevice {
  asked = 0;

  override dataExtent(offset: number, end: number): ByteRange | null {
    this.asked++;
    return super.dataExtent(offset, end);
  }
}

async function fileWithHoles(lengthBytes: number, holes: [offset: number, length: number][]) {
  const memory = new MemoryDevice(new Uint8Array(lengthBytes).fill(0xaa));
  for (const [offset, length] of holes) await memory.punch(offset, length);
  return new CountingDevice(memory);
}

const stretch = (start: number, end: number): ByteRange => ({ start, end });

test('sources that are all data take one question', async () => {
  const device = await fileWithHoles(64 * KIB, []);
  const data = new SourceData(device, [
    stretch(8 * KIB, 9 * KIB),
    stretch(20 * KIB, 30 * KIB),
    stretch(40 * KIB, 64 * KIB),
  ]);
  expect(device.asked).toBe(1);
  expect(data.within(20 * KIB, 21 * KIB)).toEqual(stretch(20 * KIB, 21 * KIB));
  expect(data.within(63 * KIB, 64 * KIB)).toEqual(stretch(63 * KIB, 64 * KIB));
});

test('holes between the sources are not asked about', async () => {
  const holes = Array.from({ length: 20 }, (_, i): [number, number] => [(10 + 2 * i) * KIB, KIB]);
  const device = await fileWithHoles(64 * KIB, holes);
  new SourceData(device, [stretch(8 * KIB, 9 * KIB), stretch(60 * KIB, 61 * KIB)]);
  expect(device.asked).toBe(2);
});

test('whatever the holes, the answers are those of the host', async () => {
  const holes: [number, number][] = [
    [0, 512],
    [KIB, 2 * KIB],
    [5 * KIB, 512],
    [7 * KIB, KIB],
  ];
  for (const some of [holes, holes.slice(1), holes.slice(0, 2), []]) {
    const device = await fileWithHoles(10 * KIB - 100, some);
    // The last source ends beyond the end of the file.
    const sources = [stretch(0, 2 * KIB), stretch(2 * KIB, 3 * KIB), stretch(4 * KIB, 11 * KIB)];
    const data = new SourceData(device, sources);
    for (const { start, end } of sources) {
      for (let from = start; from < end; from += 256) {
        for (let to = from + 256; to <= end; to += 256) {
          expect(data.within(from, to)).toEqual(device.dataExtent(from, to));
        }
      }
    }
  }
});

test('no source, no question', async () => {
  const device = await fileWithHoles(KIB, []);
  expect(new SourceData(device, []).within(0, KIB)).toBeNull();
  expect(device.asked).toBe(0);
});

test('a round asks where its sources have data before its first copy, and not again', async () => {
  const built = image({ clusterBits: 9 })
    .writeRange(0, 40)
    .layout({ gap: 50, arrange: inOrder('refcount', 'L', 'junk', 'data') })
    .build();
  const rig = await rigFor(built);
  rig.recycler.begin(await plannedMoves(rig));
  const events: string[] = [];
  const { memory } = rig;
  const [dataExtent, read] = [memory.dataExtent.bind(memory), memory.read.bind(memory)];
  memory.dataExtent = (offset, end) => {
    events.push('ask');
    return dataExtent(offset, end);
  };
  memory.read = (target, offset) => {
    events.push('read');
    return read(target, offset);
  };
  await rig.recycler.copy();
  expect(events.filter((event) => event === 'ask')).toHaveLength(1);
  expect(events.indexOf('ask')).toBeLessThan(events.indexOf('read'));
  rig.expectUnharmed();
});
