/** What a repair says it found and did, and what it refuses. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { repairDevice } from '../../src/compactor/repair.js';
import type { Progress } from '../../src/compactor/types.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { damage, type DamageName } from '../support/damage.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { readLayout } from '../support/oracle-layout.js';
import { Random } from '../support/random.js';

function sound() {
  return image({ virtualSize: 64 << 10, seed: 7 })
    .writeRange(0, 12)
    .snapshot('a')
    .writeRange(2, 4)
    .build();
}

function damaged(...names: DamageName[]): Uint8Array {
  return damage(new Random(3), sound(), names).bytes;
}

test('a sound image is left alone', async () => {
  const device = new MemoryDevice(sound());
  expect(await repairDevice(device)).toMatchObject({
    outcome: 'clean',
    what: 'all',
    corruptionsFound: 0,
    leaksFound: 0,
    refcountsRebuilt: false,
    flagsChanged: 0,
    marksCleared: [],
    bytesWritten: 0,
  });
  expect(Buffer.compare(device.bytes(), sound())).toBe(0);
  expect((await compactDevice(device, { repair: 'all' })).repaired).toBeNull();
});

test('marks alone cost one sector', async () => {
  const device = new MemoryDevice(damaged('dirty', 'corrupt'));
  expect(await repairDevice(device)).toMatchObject({
    outcome: 'repaired',
    corruptionsFound: 0,
    refcountsRebuilt: false,
    marksCleared: ['dirty', 'corrupt'],
    bytesWritten: 512,
  });
  expect(Buffer.compare(device.bytes(), sound())).toBe(0);
});

test('flags alone leave the refcounts where they are', async () => {
  const device = new MemoryDevice(damaged('flipFlags'));
  const result = await repairDevice(device);
  expect(result).toMatchObject({ outcome: 'repaired', refcountsRebuilt: false, lengthAfter: sound().length });
  expect(result.flagsChanged).toBe(result.corruptionsFound);
  expect(result.flagsChanged).toBeGreaterThan(0);
  expect(Buffer.compare(device.bytes(), sound())).toBe(0);
});

test('counts are made anew, and what was found is told as a check tells it', async () => {
  const bytes = damaged('lowerCounts', 'raiseCounts');
  const { corruptions, leaks } = inspect(bytes);
  const result = await repairDevice(new MemoryDevice(bytes));
  expect(result).toMatchObject({
    outcome: 'repaired',
    refcountsRebuilt: true,
    corruptionsFound: corruptions.length,
    leaksFound: leaks,
    corruptions: 0,
    leaks: 0,
  });
  expect(result.findings.some((line) => /^ERROR cluster \d+ refcount=/.test(line))).toBe(true);
  const compacted = await compactDevice(new MemoryDevice(bytes), { repair: 'all' });
  expect(compacted).toMatchObject({ outcome: 'compacted', lengthBefore: bytes.length });
  expect(compacted.repaired).toMatchObject({ refcountsRebuilt: true, corruptionsFound: corruptions.length });
});

describe('leaks only', () => {
  test.each(['dirty', 'corrupt'] as const)('refuses an image that is marked %s', async (mark) => {
    const device = new MemoryDevice(damaged(mark));
    await expect(repairDevice(device, { what: 'leaks' })).rejects.toThrow(
      new RegExp(`marked ${mark}.*--repair`),
    );
  });

  test('refuses an image with other damage, and names it', async () => {
    const bytes = damaged('lowerCounts');
    const device = new MemoryDevice(bytes);
    await expect(repairDevice(device, { what: 'leaks' })).rejects.toThrow(
      /leaks are not all: .*\(at 0x[0-9a-f]+\) \(and \d+ more\).*`--repair all`/,
    );
    expect(Buffer.compare(device.bytes(), bytes)).toBe(0);
  });
});

test('two clusters of the guest in one place of the file cannot be told apart, whatever the refcounts say', async () => {
  const built = image({ virtualSize: 64 << 10, seed: 7, refcountOrder: 0 })
    .writeRange(0, 3)
    .build();
  const layout = readLayout(built);
  if (typeof layout === 'string') throw new Error(layout);
  const l2 = Number(layout.view.getBigUint64(layout.l1Offset) & 0xfffffffffffe00n);
  const bytes = built.slice();
  bytes.copyWithin(l2 + 8, l2, l2 + 8);
  bytes[79]! |= 1;
  const device = new MemoryDevice(bytes);
  await expect(repairDevice(device)).rejects.toThrow(
    /more references to cluster \d+ than a refcount can hold/,
  );
  expect(Buffer.compare(device.bytes(), bytes)).toBe(0);
});

test('progress never falls, and comes to its end once', async () => {
  for (const run of [repairDevice, compactDevice]) {
    const events: Progress[] = [];
    const onProgress = (event: Progress) => events.push(event);
    await run(new MemoryDevice(damaged('lowerCounts', 'dirty')), { repair: 'all', onProgress });
    expect(events.map(({ phase }) => phase)).toContain('repair');
    for (const [i, { percent }] of events.entries()) {
      expect(percent).toBeGreaterThanOrEqual(events[i - 1]?.percent ?? 0);
      expect(percent === 100).toBe(i === events.length - 1);
    }
  }
});

test('an aborted signal stops a repair before its first write, and a compaction after it', async () => {
  const bytes = damaged('lowerCounts', 'dirty');
  const device = new MemoryDevice(bytes);
  const signal = AbortSignal.abort();
  expect(await repairDevice(device, { signal })).toMatchObject({
    outcome: 'interrupted',
    bytesWritten: 0,
    marksCleared: [],
  });
  expect(Buffer.compare(device.bytes(), bytes)).toBe(0);
  expect(await compactDevice(device, { signal, repair: 'all' })).toMatchObject({
    outcome: 'interrupted',
    repaired: { marksCleared: ['dirty'] },
  });
  expect(inspect(device.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
});
