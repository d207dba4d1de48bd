/** Live disks for as long as wanted: `BUDGET=3600 SEED=123456 npm run test:long` (seconds, a part for each). */
import { test } from 'vitest';
import { DiskTally, recordDisk } from '../disk/crash-run.js';
import { modelRun } from '../disk/model-run.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const BUDGET_SECONDS = Number(process.env.BUDGET ?? 600);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
const timeout = (BUDGET_SECONDS + 120) * 1000;

const directory = temporaryDirectory();

/** Calls `run` with one seed after the other, as long as there is time. */
async function whileThereIsTime(run: (seed: number) => Promise<unknown>): Promise<string> {
  const until = performance.now() + BUDGET_SECONDS * 250;
  let seed = SEED;
  for (; performance.now() < until; seed++) await run(seed);
  return `seeds ${SEED} to ${seed - 1}`;
}

test(`clients of live disks, seeds from ${SEED}`, { timeout }, async () => {
  console.log(await whileThereIsTime((seed) => modelRun(seed, 4000)));
});

test(`clients of live disks while clusters move, seeds from ${SEED}`, { timeout }, async () => {
  console.log(
    await whileThereIsTime((seed) => modelRun(seed, 2000, { hot: seed % 2 === 0 ? 'asked' : 'alone' })),
  );
});

test(`crashes of live disks, seeds from ${SEED}`, { timeout }, async () => {
  const tally = new DiskTally(directory.path('crashed.qcow2'));
  const seeds = await whileThereIsTime(async (seed) =>
    tally.judge(await recordDisk(seed, undefined, { operations: 80 }), seed, 60),
  );
  console.log(`${tally.report()}; ${seeds}`);
});

test(`crashes of live disks while clusters move, seeds from ${SEED}`, { timeout }, async () => {
  const tally = new DiskTally(directory.path('moving.qcow2'));
  const seeds = await whileThereIsTime(async (seed) =>
    tally.judge(await recordDisk(seed, undefined, { operations: 80, isHot: true }), seed, 60),
  );
  console.log(`${tally.report()}; ${seeds}`);
});
