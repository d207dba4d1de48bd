/** Clusters that must stay, and how long they keep a file. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { eraseDevice } from '../../src/compactor/erase.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { goalFor } from '../../src/recycler/goal.js';
import { image } from '../support/image-builder.js';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import { inOrder, movesFor, rigFor } from './harness.js';

/** Header, data 0, gap of 4, data 1, gap of 2, data 2, LUKS header, tables. */
function gappy(options: { l1Size?: number } = {}) {
  const order = ['data active:0', 'junk', 'data active:1', 'data active:2', 'LUKS', 'refcount', 'L1', 'L2'];
  return image({ encryption: 2, ...options })
    .writeRange(0, 3)
    .layout({ gap: 4, junkAtEnd: 3, arrange: inOrder(...order) });
}

test('of an image with LUKS all data and its header are pinned', async () => {
  const built = gappy().buildWithMap();
  const { volume } = await rigFor(built.bytes);
  const luks = built.where('LUKS header');
  const data = [0, 1, 2].map((guest) => built.where(`data active:${guest}`));
  expect([...volume.pins.clusters()]).toEqual([...data, luks, luks + 1, luks + 2].sort((a, b) => a - b));
  expect(volume.pins.count).toBe(6);
  expect(volume.pins.last).toBe(luks + 2);
  expect(volume.pins.has(built.where('L1'))).toBe(false);
});

test('of another image nothing is pinned', async () => {
  const { volume } = await rigFor(image({ encryption: 1 }).write(0).build());
  expect(volume.pins).toMatchObject({ count: 0, last: -1 });
  expect(volume.pins.leastClusters([3])).toBe(0);
});

test('a pinned cluster is no source of a move', async () => {
  const built = gappy().buildWithMap();
  const rig = await rigFor(built.bytes);
  const moves = await movesFor(rig, [[built.where('data active:2'), built.where('junk')]]);
  expect(() => rig.recycler.begin(moves)).toThrow(/pinned/);
});

describe('the least length', () => {
  test.each([
    ['no table', [], 0],
    ['tables that fill the gap', [2, 2], 0],
    ['one that fits no gap', [5], 5],
    ['the second of two that fit one gap', [3, 3], 3],
    ['the longest first', [2, 4], 2],
  ])('%s', async (_, tables, behind) => {
    const { volume } = await rigFor(gappy().build());
    expect(volume.pins.leastClusters(tables)).toBe(volume.pins.last + 1 + behind);
  });

  test('is what an independent computation says', async () => {
    const bytes = gappy().build();
    const { volume } = await rigFor(bytes);
    const goal = goalFor(volume, 0);
    expect(goal.minimalClusters).toBe(minimalClusterCount(bytes));
    expect(goal.minimalClusters).toBe(volume.pins.last + 1);
    expect(goal.junkClusters).toBe(0);
  });

  test('what the pins keep open is the first part of a pool', async () => {
    const bytes = gappy().layout({ gap: 9 }).build();
    const { volume } = await rigFor(bytes);
    const { minimalClusters, junkClusters } = goalFor(volume, 0);
    expect(junkClusters).toBe(5);
    expect(goalFor(volume, 3).finalClusters).toBe(minimalClusters);
    expect(goalFor(volume, 7).finalClusters).toBe(minimalClusters + 2);
  });
});

test('the result says how many clusters stay and why the file is longer than what is live', async () => {
  const device = new MemoryDevice(gappy().layout({ gap: 9 }).build());
  const { outcome, pinnedClusters, notices, excessClusters } = await compactDevice(device);
  expect({ outcome, pinnedClusters, excessClusters }).toEqual({
    outcome: 'compacted',
    pinnedClusters: 6,
    excessClusters: 0,
  });
  expect(notices).toHaveLength(1);
  expect(notices[0]).toMatch(
    /^5 unused clusters stay.*LUKS.*6 clusters keep their places.*--secret-file.*--punch/,
  );
  expect(inspect(device.bytes())).toMatchObject({ leaks: 0, corruptions: [] });
  const compacted = device.bytes();
  const second = await compactDevice(device);
  expect(second).toMatchObject({ outcome: 'clean', bytesWritten: 0, notices });
  expect(Buffer.compare(compacted, device.bytes())).toBe(0);
  expect(await eraseDevice(device, { punch: true })).toMatchObject({ outcome: 'erased', clustersErased: 5 });
});

test('a table that fits no gap lies behind the pins, and the goal knows it', async () => {
  const order = [
    'data active:0',
    'junk',
    'data active:1',
    'data active:2',
    'LUKS',
    'refcount',
    'L2',
    'leak',
    'L1',
  ];
  const layout = { leaks: 8, arrange: inOrder(...order) };
  const device = new MemoryDevice(
    gappy({ l1Size: 5 * 64 })
      .layout(layout)
      .build(),
  );
  const { excessClusters } = await compactDevice(device, { runtimeAsserts: true });
  const { clusterCount } = inspect(device.bytes());
  expect(excessClusters).toBe(0);
  const { volume } = await rigFor(device.bytes());
  expect(clusterCount).toBe(volume.pins.last + 1 + 5);
});

test('a leak that only a move of encrypted data could free is left, and said so', async () => {
  const bytes = image({ encryption: 2 })
    .writeRange(0, 4)
    .snapshot('a')
    .deleteSnapshot('a', { interrupted: true })
    .layout({ junk: 12 })
    .build();
  const device = new MemoryDevice(bytes);
  const { leaksLeft, notices } = await compactDevice(device, { runtimeAsserts: true });
  expect(leaksLeft).toBe(4);
  expect(inspect(device.bytes())).toMatchObject({ leaks: 4, corruptions: [] });
  expect(
    notices.some((notice) => /4 clusters keep refcounts.*LUKS.*--secret-file.*--repair/.test(notice)),
  ).toBe(true);
  expect(await compactDevice(device)).toMatchObject({ outcome: 'clean', bytesWritten: 0, leaksLeft: 4 });
});
