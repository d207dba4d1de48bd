/** The run after one that was cut off: it must end where that one would have ended. */
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { secretOf } from '../support/luks.js';
import { hasLongTables } from '../support/oracle-layout.js';
import {
  type Needs,
  extentSectors,
  inspect,
  minimalClusterCount,
  refcountsLimitSharing,
} from '../support/oracle.js';
import { layoutOf } from './kinds.js';
import type { Judge } from './recorded-run.js';

export interface SecondRun {
  flaw: string | null;
  /** The first run had left two copies of a shared cluster in use: the result is right, but not the shortest. */
  split: boolean;
}

export async function secondRun(
  initial: Uint8Array,
  left: Uint8Array,
  judge: Judge,
  { dropPreallocation = false }: { dropPreallocation?: boolean } = {},
): Promise<SecondRun> {
  const needs: Needs = dropPreallocation ? { preallocation: 'dropped' } : {};
  const device = new MemoryDevice(left);
  const secret = secretOf(initial);
  const { leaksLeft } = await compactDevice(device, { dropPreallocation, runtimeAsserts: true, ...secret });
  const bytes = device.bytes();
  const { leaks, staleRefcountsPastEnd, clusterCount } = inspect(bytes);
  const minimal = minimalClusterCount(initial, needs);
  const split = clusterCount > minimal && sharesClusters(initial);
  let flaw = judge.flawOf(bytes);
  const { encryptionHeader, hasKnownKey } = layoutOf(initial);
  const isPinned = encryptionHeader !== null;
  // Where data may not move, what only a move puts right stays, and tables may find no place.
  if (leaks > (isPinned && !hasKnownKey ? leaksLeft : 0) || staleRefcountsPastEnd > 0)
    flaw ??= 'leaks remain';
  if (isPinned && hasLongTables(layoutOf(initial)) && clusterCount > minimalClusterCount(left, needs))
    return { flaw, split };
  if (refcountsLimitSharing(left)) return { flaw, split: false };
  if (clusterCount !== minimalClusterCount(left, needs))
    flaw ??= `${clusterCount} clusters remain, not ${minimalClusterCount(left, needs)}`;
  // Extents that shared a sector have one each now where the first run ended between them.
  if (extentSectors(left) > extentSectors(initial)) return { flaw, split: false };
  if (clusterCount !== minimal && !split)
    flaw ??= `${clusterCount} clusters remain, ${minimal} in a whole run`;
  return { flaw, split };
}

/** Whether some cluster has several references: cut off between two of them, a run leaves two copies. */
function sharesClusters(bytes: Uint8Array): boolean {
  const { view, snapshots, l1Offset, l1Size, clusterSize, l2EntrySize } = layoutOf(bytes);
  if (snapshots.length > 0) return true;
  const seen = new Set<number>();
  for (let l1 = 0; l1 < l1Size; l1++) {
    const table = offsetAt(view, l1Offset + l1 * 8);
    if (table === 0) continue;
    for (let at = table; at < table + clusterSize; at += l2EntrySize) {
      const target = offsetAt(view, at);
      if (target === 0) continue;
      if (seen.has(target)) return true;
      seen.add(target);
    }
  }
  return false;
}

function offsetAt(view: DataView, at: number): number {
  return (view.getUint32(at) & 0xffffff) * 2 ** 32 + ((view.getUint32(at + 4) & 0xfffffe00) >>> 0);
}
