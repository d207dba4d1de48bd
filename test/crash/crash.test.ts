/** Whenever a run is cut off, the image is valid and shows the guest the same disk (I1, I2, I3). */
import { describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CrashTally } from './crash-tally.js';
import { KINDS } from './kinds.js';
import { randomRun } from './random-runs.js';
import { recordCompaction, recordErasing } from './recorded-run.js';

const SEED = Number(process.env.SEED ?? 1);
const STATES = 120_000;
/** Random subsets of the writes between two barriers, beside every prefix of them; more for the hand-made kinds. */
const SUBSETS = 80;
const SUBSETS_OF_A_KIND = 400;

const tally = new CrashTally(temporaryDirectory());

describe('a crash in a run on an image with', () => {
  test.each(KINDS)('$name', async ({ name, image, options, freeBytes, erase, happened }) => {
    const initial = image.build();
    const run = erase
      ? await recordErasing(initial, erase)
      : await recordCompaction(initial, options, { freeBytes });
    expect(happened(run.initial, run.final)).toBe(true);
    await tally.judge(run, { seed: SEED, subsetsPerWindow: SUBSETS_OF_A_KIND, description: name });
    if (erase) return;
    // The same on a host that lets clusters share blocks instead of copying them.
    const sharing = await recordCompaction(initial, options, { freeBytes, canShare: true });
    expect(Buffer.compare(sharing.final, run.final)).toBe(0);
    await tally.judge(sharing, { seed: SEED, subsetsPerWindow: 100, description: `${name}, shared` });
  });
});

test(`crashes in runs on random images, seeds from ${SEED}`, { timeout: 240_000 }, async () => {
  let seed = SEED;
  for (; tally.states < STATES; seed++) {
    const run = await randomRun(seed);
    await tally.judge(run, { seed, subsetsPerWindow: SUBSETS, description: run.description });
  }
  console.log(`${tally.report()}; seeds ${SEED} to ${seed - 1}`);
  expect(tally.states).toBeGreaterThanOrEqual(STATES);
  expect(tally.qemuChecks).toBeGreaterThanOrEqual(20);
});
