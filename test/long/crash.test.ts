/** The crash tests for as long as wanted: `BUDGET=3600 SEED=123456 npm run test:long` (seconds). */
import { test } from 'vitest';
import { CrashTally } from '../crash/crash-tally.js';
import { randomRun } from '../crash/random-runs.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const BUDGET_SECONDS = Number(process.env.BUDGET ?? 600);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);

const tally = new CrashTally(temporaryDirectory());

test(
  `crashes in runs on random images for ${BUDGET_SECONDS} s, seeds from ${SEED}`,
  { timeout: (BUDGET_SECONDS + 120) * 1000 },
  async () => {
    const until = performance.now() + BUDGET_SECONDS * 1000;
    let seed = SEED;
    for (; performance.now() < until; seed++) {
      const run = await randomRun(seed);
      await tally.judge(run, { seed, subsetsPerWindow: 200, description: run.description }, until);
    }
    console.log(`${tally.report()}; seeds ${SEED} to ${seed - 1}`);
  },
);
