/** Images with compressed clusters for as long as wanted: `BUDGET=3600 SEED=123456 npm run test:long` (seconds). */
import { expect, test } from 'vitest';
import { flawOf, randomOptions } from '../property/flaw.js';
import { Random } from '../support/random.js';
import { randomImage } from '../support/random-image.js';

const BUDGET_SECONDS = Number(process.env.BUDGET ?? 600);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);

test(
  `compressed extents packed as planned for ${BUDGET_SECONDS} s, seeds from ${SEED}`,
  { timeout: (BUDGET_SECONDS + 120) * 1000 },
  async () => {
    const until = performance.now() + BUDGET_SECONDS * 1000;
    const failures: string[] = [];
    let seed = SEED;
    for (; performance.now() < until && failures.length < 5; seed++) {
      const random = new Random(seed ^ 0x9ac4);
      const { bytes, description } = randomImage(seed, {
        compressed: true,
        ...random.pick([{}, {}, { refcountOrder: 1 }, { refcountOrder: random.int(3) }]),
        ...random.pick([{}, {}, { clusterBits: random.pick([9, 10, 12, 13]) }]),
      });
      const roundBytes = 1024 * random.pick([1, 2, 4, 16, 64]);
      const options = { ...randomOptions(seed), ...(random.chance(0.5) ? { roundBytes } : {}) };
      const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
      if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
    }
    console.log(`seeds ${SEED} to ${seed - 1}`);
    if (failures.length > 0) expect.fail(failures.join('\n'));
  },
);
