/** Whatever the image, compacting it keeps what the guest sees and leaves the least file (I1, I2, I8). */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import type { CompactOptions, Progress } from '../../src/compactor/types.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import {
  compareGuestView,
  extentSectors,
  guestView,
  inspect,
  minimalClusterCount,
  refcountsLimitSharing,
} from '../support/oracle.js';
import { Random } from '../support/random.js';
import { randomImage } from '../support/random-image.js';

const SEED = Number(process.env.SEED ?? 1_000);
const COUNT = Number(process.env.COUNT ?? 600);

type Options = CompactOptions & { maxMoves?: number };

function randomOptions(seed: number): Options {
  const random = new Random(seed ^ 0x0c0ffee);
  const roundBytes = random.pick([undefined, undefined, 4096]);
  const maxMoves = random.pick([undefined, undefined, 7, 1]);
  return {
    ...(roundBytes === undefined ? {} : { roundBytes }),
    ...(maxMoves === undefined ? {} : { maxMoves }),
    keepErased: random.pick([0, 0, 3, 50]),
    punch: random.chance(0.5),
  };
}

/**
 * What compressed extents may need above their sectors: with rounds of a few clusters, a sector for each round that
 * takes overlapping ones apart; with narrow refcounts nobody knows, since a cluster can be shared by a few only.
 */
function slackOf(bytes: Uint8Array, { roundBytes }: Options): number {
  if (refcountsLimitSharing(bytes)) return Infinity;
  return roundBytes !== undefined && extentSectors(bytes) > 0 ? 2 : 0;
}

/** Compacts twice and says what is wrong with the results, or null. */
async function flawOf(bytes: Uint8Array, options: Options): Promise<string | null> {
  const view = guestView(bytes);
  const minimal = minimalClusterCount(bytes);
  const keepErased = options.keepErased ?? 0;
  // The pool is as large as asked for, unless the file had less junk than that.
  const wanted = Math.max(minimal, Math.min(minimal + keepErased, inspect(bytes).clusterCount));

  const device = new MemoryDevice(bytes);
  const progress: Progress[] = [];
  const onProgress = (event: Progress) => progress.push(event);
  const result = await compactDevice(device, { ...options, runtimeAsserts: true, onProgress });
  const compacted = device.bytes();

  const after = inspect(compacted);
  if (after.corruptions.length > 0) return `corrupt: ${after.corruptions[0]}`;
  const difference = compareGuestView(view, compacted);
  if (difference !== null) return `the guest view changed: ${difference}`;
  if (after.leaks > 0) return `${after.leaks} leaks`;
  if (after.staleRefcountsPastEnd > 0) return `${after.staleRefcountsPastEnd} refcounts past the end`;
  const tooMany = after.clusterCount - wanted;
  if (tooMany < 0 || tooMany > slackOf(bytes, options))
    return `${after.clusterCount} clusters, not ${wanted}`;
  if (result.excessClusters > 0) return `${result.excessClusters} clusters beyond the goal`;
  if (result.lengthAfter !== compacted.length) return 'the reported length is not that of the file';
  // A last cluster that was there in part may be whole now.
  if (after.clusterCount > inspect(bytes).clusterCount) return 'the file has more clusters than before';

  for (const [index, { percent }] of progress.entries()) {
    if (percent < (progress[index - 1]?.percent ?? 0)) return 'the progress fell';
    if ((percent === 100) !== (index === progress.length - 1)) return '100 % was not said once, at the end';
  }

  const again = await compactDevice(device, { ...options, runtimeAsserts: true });
  if (again.outcome !== 'clean') return `the second run is ${again.outcome}, not clean`;
  if (Buffer.compare(device.bytes(), compacted) !== 0) return 'the second run changed the file';
  return null;
}

test(
  `random images compact to the least file, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    const failures: string[] = [];
    for (let seed = SEED; seed < SEED + COUNT; seed++) {
      const { bytes, description } = randomImage(seed);
      const options = randomOptions(seed);
      const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
      if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
    }
    console.log(`compacted ${COUNT} random images, SEED=${SEED} COUNT=${COUNT}`);
    if (failures.length > 0) {
      expect.fail(`${failures.length} of ${COUNT} images:\n${failures.slice(0, 5).join('\n')}`);
    }
  },
);

test('what stepped aside beyond the goal finds its place still there in a later round', async () => {
  const { bytes } = randomImage(551266073, { clusterBits: 9, maxClusters: 80, layout: {} });
  expect(await flawOf(bytes, { roundBytes: 512, maxMoves: 3 })).toBeNull();
});

test(
  `compressed extents are squeezed into the fewest clusters, seeds from ${SEED}, ${COUNT / 2} of them`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    const failures: string[] = [];
    let squeezed = 0;
    for (let seed = SEED; seed < SEED + COUNT / 2; seed++) {
      const { bytes, description } = randomImage(seed, { compressed: true });
      const { keepErased, punch, maxMoves } = randomOptions(seed);
      const options = { keepErased, punch, ...(maxMoves === undefined ? {} : { maxMoves }) };
      if (!refcountsLimitSharing(bytes)) squeezed++;
      const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
      if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
    }
    if (failures.length > 0) expect.fail(`${failures.length}:\n${failures.slice(0, 5).join('\n')}`);
    expect(squeezed).toBeGreaterThan(COUNT / 4);
  },
);
