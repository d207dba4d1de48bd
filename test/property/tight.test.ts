/** Images with hardly a hole, whose tables and refcount blocks stand in each other's way: they must come down too. */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { image } from '../support/image-builder.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { Random } from '../support/random.js';

const SEED = Number(process.env.SEED ?? 1);
const COUNT = Number(process.env.COUNT ?? 250);

interface Tight {
  bytes: Uint8Array;
  description: string;
  /** Clusters above the least that may remain. */
  excess: number;
}

/** 64-bit counts in 512-byte clusters: a refcount block describes 64 clusters, a cluster of the table 4096. */
const format = { clusterBits: 9, refcountOrder: 6 } as const;

/** As many clusters as a whole number of refcount blocks describes, or a few less, and most of them live. */
function fullRanges(seed: number): Tight {
  const random = new Random(seed);
  const l1Size = random.pick([10, 70, 140, 300, random.between(65, 500)]);
  const layout = {
    shuffle: random.chance(0.85),
    junk: random.pick([0, 0, 0, 1, 2, random.int(16)]),
    junkAtEnd: random.pick([0, 0, 0, random.int(4)]),
    gap: random.pick([0, 0, 0, 0, random.int(100)]),
    overcounted: random.pick([0, 0, random.int(50)]),
    extraRefcountTableClusters: random.pick([0, 0, 0, 1, 3]),
    blocksPastEnd: random.pick([0, 0, 0, 2]),
  };
  const build = (padding: number) => {
    const history = new Random(seed + 1e6);
    const builder = image({ ...format, l1Size, seed }).writeRange(0, padding);
    for (let i = history.int(6); i > 0; i--) {
      builder.snapshot(`s${i}`);
      if (history.chance(0.4)) builder.write(64 * history.between(1, l1Size - 1));
      if (history.chance(0.1)) builder.writeRange(64, history.int(30));
      if (history.chance(0.3)) builder.deleteSnapshot(`s${i}`, { interrupted: history.chance(0.7) });
    }
    return builder.layout(layout).build();
  };
  let bytes = build(0);
  const wanted = random.pick([1, 2, 3]) * 64 - random.pick([0, 0, 1, 2, random.int(8)]);
  for (let padding = 1; padding < 64 && inspect(bytes).clusterCount < wanted; padding++)
    bytes = build(padding);
  return { bytes, description: JSON.stringify({ seed, l1Size, ...layout }), excess: 0 };
}

/** The refcount table needs one cluster less, but what lies in the last ranges hardly fits into the others. */
function shrinkingTable(seed: number): Tight {
  const random = new Random(seed);
  const live = 4096 - random.between(-4, 30);
  const extraRefcountTableClusters = random.pick([0, 1, 2]);
  const layout = {
    shuffle: random.chance(0.5),
    junk: random.int(12),
    junkAtEnd: random.pick([0, 0, random.int(4)]),
    extraRefcountTableClusters,
    blocksPastEnd: random.pick([0, 0, 1, 2, 64]),
    overcounted: random.pick([0, 0, 3]),
  };
  const build = (padding: number) =>
    image({ ...format, l1Size: 70, seed })
      .writeRange(0, padding)
      .layout(layout)
      .build();
  const bytes = build(3800 + live - minimalClusterCount(build(3800)));
  // The table's own tail can be what does not fit: it goes only when the last ranges are empty.
  const excess = minimalClusterCount(bytes) > 4096 ? 0 : extraRefcountTableClusters + 4;
  return { bytes, description: JSON.stringify({ seed, live, ...layout }), excess };
}

async function flawOf({ bytes, excess }: Tight, seed: number): Promise<string | null> {
  const options = new Random(seed).pick([{}, { maxMoves: 3 }, { roundBytes: 1024 }]);
  const view = guestView(bytes);
  const minimal = minimalClusterCount(bytes);
  const before = inspect(bytes);
  const device = new MemoryDevice(bytes);
  const result = await compactDevice(device, { ...options, runtimeAsserts: true });
  const compacted = device.bytes();
  const after = inspect(compacted);
  if (after.corruptions.length > 0) return `corrupt: ${after.corruptions[0]}`;
  const difference = compareGuestView(view, compacted);
  if (difference !== null) return `the guest view changed: ${difference}`;
  const lengths = `${before.clusterCount} -> ${after.clusterCount} clusters, minimal ${minimal}, ${JSON.stringify(options)}`;
  if (after.leaks > 0) return `${after.leaks} of ${before.leaks} leaks remain: ${lengths}`;
  if (result.leaksReclaimed !== before.leaks)
    return `${result.leaksReclaimed} reclaimed of ${before.leaks} leaks`;
  if (after.clusterCount > before.clusterCount) return `longer than before: ${lengths}`;
  if (after.clusterCount > minimal + excess) return `too long: ${lengths}`;
  if (after.clusterCount > minimal) return null;
  const again = await compactDevice(device, { ...options, runtimeAsserts: true });
  return again.outcome === 'clean' ? null : `the second run is ${again.outcome}`;
}

test.each([
  ['ranges that are full', fullRanges, COUNT],
  ['a refcount table that must shrink', shrinkingTable, Math.ceil(COUNT / 10)],
] as const)(`%s, seeds from ${SEED}`, { timeout: 60_000 + 400 * COUNT }, async (_, make, count) => {
  const failures: string[] = [];
  for (let seed = SEED; seed < SEED + count; seed++) {
    const tight = make(seed);
    const flaw = await flawOf(tight, seed).catch((error: unknown) => `threw ${String(error)}`);
    if (flaw !== null) failures.push(`${flaw}\n  ${tight.description}`);
  }
  if (failures.length > 0) expect.fail(`${failures.length} of ${count}:\n${failures.slice(0, 5).join('\n')}`);
});
