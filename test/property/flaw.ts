/** A compaction and what is wrong with its result: the promises of the engine as one function. */
import { expect } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { planDevice } from '../../src/compactor/plan.js';
import type { CompactOptions, Progress } from '../../src/compactor/types.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import {
  compareGuestView,
  guestView,
  inspect,
  minimalClusterCount,
  refcountsLimitSharing,
} from '../support/oracle.js';
import { secretOf } from '../support/luks.js';
import { hasLongTables } from '../support/oracle-layout.js';
import type { RandomImage } from '../support/random-image.js';
import { Random } from '../support/random.js';

export type Options = CompactOptions & { maxMoves?: number };

export function randomOptions(seed: number): Options {
  const random = new Random(seed ^ 0x0c0ffee);
  const roundBytes = random.pick([undefined, undefined, 4096]);
  const maxMoves = random.pick([undefined, undefined, 7, 1]);
  return {
    ...(roundBytes === undefined ? {} : { roundBytes }),
    ...(maxMoves === undefined ? {} : { maxMoves }),
    keepErased: random.pick([0, 0, 3, 50]),
    punch: random.chance(0.5),
    dropPreallocation: random.chance(0.3),
  };
}

/** Compacts twice and says what is wrong with the results, or null. */
export async function flawOf(bytes: Uint8Array, options: Options): Promise<string | null> {
  const view = guestView(bytes);
  const { dropPreallocation } = options;
  const minimal = minimalClusterCount(bytes, dropPreallocation === true ? { preallocation: 'dropped' } : {});
  const keepErased = options.keepErased ?? 0;

  const planned = await planDevice(new MemoryDevice(bytes), { ...secretOf(bytes), ...options });
  const device = new MemoryDevice(bytes, { canShare: options.punch });
  const progress: Progress[] = [];
  const onProgress = (event: Progress) => progress.push(event);
  const given = { ...secretOf(bytes), ...options };
  const result = await compactDevice(device, { ...given, runtimeAsserts: true, onProgress });
  const compacted = device.bytes();

  const after = inspect(compacted);
  if (after.corruptions.length > 0) return `corrupt: ${after.corruptions[0]}`;
  const difference = compareGuestView(view, compacted);
  if (difference !== null) return `the guest view changed: ${difference}`;
  const isPinned = view.layout.encryptionHeader !== null;
  // What only a move puts right stays as it is where nothing may move.
  if (after.leaks > (isPinned && !view.layout.hasKnownKey ? result.leaksLeft : 0))
    return `${after.leaks} leaks`;
  if (after.staleRefcountsPastEnd > 0) return `${after.staleRefcountsPastEnd} refcounts past the end`;
  // The pool is as large as asked for, unless the file had less junk than that.
  const withPool = (isPinned ? after.liveClusters : minimal) + keepErased;
  const wanted = Math.max(minimal, Math.min(withPool, inspect(bytes).clusterCount));
  const mayBeLonger = isPinned && hasLongTables(view.layout) && after.clusterCount > minimal;
  // With narrow refcounts nobody knows the least, since a cluster can be shared by a few extents only.
  const isLeast =
    after.clusterCount === wanted || (refcountsLimitSharing(bytes) && after.clusterCount > wanted);
  if (!isLeast && !mayBeLonger) return `${after.clusterCount} clusters, not ${wanted}`;
  if (result.excessClusters > 0 && !mayBeLonger) return `${result.excessClusters} clusters beyond the goal`;
  const plannedClusters = Math.ceil(planned.lengthAfter / planned.clusterBytes);
  if (after.clusterCount !== plannedClusters && !mayBeLonger)
    return `${after.clusterCount} clusters, not ${plannedClusters} as planned`;
  if (result.lengthAfter !== compacted.length) return 'the reported length is not that of the file';
  // A last cluster that was there in part may be whole now.
  if (after.clusterCount > inspect(bytes).clusterCount) return 'the file has more clusters than before';

  for (const [index, { percent }] of progress.entries()) {
    if (percent < (progress[index - 1]?.percent ?? 0)) return 'the progress fell';
    if ((percent === 100) !== (index === progress.length - 1)) return '100 % was not said once, at the end';
  }

  const again = await compactDevice(device, { ...given, runtimeAsserts: true });
  if (again.outcome !== 'clean') return `the second run is ${again.outcome}, not clean`;
  if (Buffer.compare(device.bytes(), compacted) !== 0) return 'the second run changed the file';
  return null;
}

/** So many images, one for each seed from `first` on: fails with the first few that have a flaw. */
export async function expectNoFlaws(
  first: number,
  count: number,
  make: (seed: number) => { image: RandomImage; options?: Options },
): Promise<void> {
  const failures: string[] = [];
  for (let seed = first; seed < first + count; seed++) {
    const { image, options = randomOptions(seed) } = make(seed);
    const { bytes, description } = image;
    const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
    if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
  }
  if (failures.length > 0)
    expect.fail(`${failures.length} of ${count} images:\n${failures.slice(0, 5).join('\n')}`);
}
