/** Repairs of random damaged images, and crashes in them, for as long as wanted: `BUDGET=3600 SEED=123456 npm run test:long`. */
import { expect, test } from 'vitest';
import { RepairTally } from '../crash/repair-tally.js';
import { damagedImage, repairFlaw } from '../property/repaired.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const BUDGET_SECONDS = Number(process.env.BUDGET ?? 600);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
const timeout = (BUDGET_SECONDS + 120) * 1000;

const tally = new RepairTally(temporaryDirectory());

test(`crashes in repairs for ${BUDGET_SECONDS / 2} s, seeds from ${SEED}`, { timeout }, async () => {
  const until = performance.now() + BUDGET_SECONDS * 500;
  let seed = SEED;
  for (; performance.now() < until; seed++) await tally.judgeRandom(seed);
  console.log(`${tally.report()}; seeds ${SEED} to ${seed - 1}`);
});

test(`repairs for ${BUDGET_SECONDS / 2} s, seeds from ${SEED}`, { timeout }, async () => {
  const until = performance.now() + BUDGET_SECONDS * 500;
  let seed = SEED;
  for (; performance.now() < until; seed++) {
    const image = damagedImage(seed);
    const flaw = await repairFlaw(image).catch((error: unknown) => `threw ${String(error)}`);
    expect(flaw, image.description).toBeNull();
  }
  console.log(`${seed - SEED} damaged images repaired; seeds ${SEED} to ${seed - 1}`);
});
