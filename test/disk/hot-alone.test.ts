/** Any junk at all makes the recycler compact on its own while clients are at work, in a time that passes by their turns. */
import { test } from 'vitest';
import { SEED, hotRuns } from './hot-run.js';

test(
  `clients see what they wrote while the recycler follows its own mind, seeds from ${SEED}`,
  { timeout: 300_000 },
  () => hotRuns(SEED + 500_000, 'alone'),
);
