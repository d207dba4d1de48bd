/** Images with hardly a hole, whose tables and refcount blocks stand in each other's way: they must come down too. */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { Random } from '../support/random.js';
import { fullRanges, longTables, shrinkingTable, type Tight } from '../support/tight-image.js';

const SEED = Number(process.env.SEED ?? 1);
const COUNT = Number(process.env.COUNT ?? 250);

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
  ['tables longer than what a block describes', longTables, COUNT],
] as const)(`%s, seeds from ${SEED}`, { timeout: 60_000 + 400 * COUNT }, async (_, make, count) => {
  const failures: string[] = [];
  for (let seed = SEED; seed < SEED + count; seed++) {
    const tight = make(seed);
    const flaw = await flawOf(tight, seed).catch((error: unknown) => `threw ${String(error)}`);
    if (flaw !== null) failures.push(`${flaw}\n  ${tight.description}`);
  }
  if (failures.length > 0) expect.fail(`${failures.length} of ${count}:\n${failures.slice(0, 5).join('\n')}`);
});
