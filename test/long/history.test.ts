/** Images that QEMU made and changed, for as long as wanted: `BUDGET=3600 SEED=123456 npm run test:long` (seconds). */
import { expect, test } from 'vitest';
import { flawOfHistory } from '../qemu/history-verdict.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const BUDGET_SECONDS = Number(process.env.BUDGET ?? 600);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);

const directory = temporaryDirectory();

test(
  `images with a past for ${BUDGET_SECONDS} s, seeds from ${SEED}`,
  { timeout: (BUDGET_SECONDS + 120) * 1000 },
  async () => {
    const until = performance.now() + BUDGET_SECONDS * 1000;
    let seed = SEED;
    for (; performance.now() < until; seed++) {
      const { flaw, commands } = await flawOfHistory(seed, directory.path('.'));
      if (flaw !== null) expect.fail(`SEED=${seed} COUNT=1: ${flaw}\n  ${commands.join('\n  ')}`);
    }
    console.log(`${seed - SEED} images with a past, seeds ${SEED} to ${seed - 1}`);
  },
);
