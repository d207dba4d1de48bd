/** The short way of a compaction that has nothing to do: taken where it may be, and the same result as the long way. */
import { describe, expect, test } from 'vitest';
import { isAlreadyCompact } from '../../src/compactor/already-compact.js';
import { compactDevice } from '../../src/compactor/compact.js';
import type { CompactOptions, Progress } from '../../src/compactor/types.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { opened } from '../image/opened.js';
import { image } from '../support/image-builder.js';
import { randomImage } from '../support/random-image.js';

type Run = { result: object; progress: Progress[] };

async function runOn(bytes: Uint8Array, options: CompactOptions): Promise<Run> {
  const progress: Progress[] = [];
  const device = new MemoryDevice(bytes, { canPunch: false });
  const onProgress = (event: Progress) => void progress.push(event);
  const { seconds: _, ...result } = await compactDevice(device, { ...options, onProgress });
  return { result, progress };
}

async function compacted(bytes: Uint8Array): Promise<Uint8Array> {
  const device = new MemoryDevice(bytes);
  await compactDevice(device);
  return device.bytes();
}

async function isShort(bytes: Uint8Array): Promise<boolean> {
  const found = await opened(bytes);
  return isAlreadyCompact(found.image, found.walked);
}

describe('an image that is compact already', () => {
  const CASES: [string, Uint8Array][] = [
    ['empty', image().build()],
    ['without a virtual disk', image({ virtualSize: 0, l1Size: 0 }).build()],
    ['with part of a last cluster', image().writeRange(0, 9).layout({ partialTail: true }).build()],
    ['of data', image({ clusterBits: 9 }).writeRange(0, 100).build()],
    ['with snapshots', image().writeRange(0, 30).snapshot('a').writeRange(5, 9).snapshot('b').build()],
    ['of large clusters and 1-bit counts', image({ clusterBits: 16, refcountOrder: 0 }).write(7).build()],
  ];

  test.each(CASES)('%s: the long way tells the same', async (_, bytes) => {
    const content = await compacted(bytes);
    expect(await isShort(content)).toBe(true);
    for (const options of [{}, { keepErased: 5 }, { keepErased: 5, punch: true }]) {
      const short = await runOn(content, options);
      expect(short).toEqual(await runOn(content, { ...options, runtimeAsserts: true }));
      expect(short.result).toMatchObject({ outcome: 'clean', bytesWritten: 0, barriers: 0 });
    }
  });

  test('random images: what the long way leaves is seen to be compact, and the long way tells the same', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 150, compressed: false });
      const content = await compacted(bytes);
      expect(await isShort(content), description).toBe(true);
      const long = await runOn(content, { runtimeAsserts: true });
      expect(await runOn(content, {}), description).toEqual(long);
      if (await isShort(bytes)) expect(Buffer.compare(content, bytes), description).toBe(0);
    }
  });

  test('aborted before: interrupted, as on the long way', async () => {
    const content = await compacted(image().write(0).build());
    const signal = AbortSignal.abort();
    const { result } = await runOn(content, { signal });
    expect(result).toMatchObject({ outcome: 'interrupted' });
    expect(result).toEqual((await runOn(content, { signal, runtimeAsserts: true })).result);
  });
});

describe('not compact', () => {
  const base = () => image({ clusterBits: 9 }).writeRange(0, 20);

  test.each([
    ['junk in the file', base().layout({ junk: 1 })],
    ['junk at its end', base().layout({ junkAtEnd: 1 })],
    ['leaks', base().layout({ leaks: 1 })],
    ['counts past the end', base().layout({ staleCounts: 1 })],
    ['counts too high', base().layout({ overcounted: 1 })],
    ['a refcount block that describes nothing', base().layout({ blocksPastEnd: 1 })],
    ['a refcount table that is too long', base().layout({ extraRefcountTableClusters: 1 })],
  ])('%s', async (_, builder) => {
    const content = builder.build();
    expect(await isShort(content)).toBe(false);
    expect((await runOn(content, {})).result).toMatchObject({ outcome: 'compacted' });
  });
});
