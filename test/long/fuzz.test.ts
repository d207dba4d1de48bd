/** The fuzzer for as long as wanted: `BUDGET=3600 SEED=123456 npm run test:long` (seconds). */
import { expect, test } from 'vitest';
import { fuzz } from '../fuzz/fuzz.js';
import { addNoise, changeFields } from '../fuzz/mutations.js';

const BUDGET_SECONDS = Number(process.env.BUDGET ?? 600);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
/** So many at a time, between looks at the clock. */
const BATCH = 1000;

test(
  `damaged images for ${BUDGET_SECONDS} s, seeds from ${SEED}`,
  { timeout: (BUDGET_SECONDS + 120) * 1000 },
  async () => {
    const until = performance.now() + BUDGET_SECONDS * 1000;
    let seed = SEED;
    for (; performance.now() < until; seed += BATCH) {
      for (const mutate of [changeFields, addNoise]) {
        const { failures } = await fuzz(seed, BATCH, mutate);
        if (failures.length > 0) expect.fail(`${mutate.name}:\n${failures.slice(0, 5).join('\n')}`);
      }
    }
    console.log(`fuzzed ${2 * (seed - SEED)} images, seeds ${SEED} to ${seed - 1}`);
  },
);
