/** Compaction is asked for again and again while clients are at work. */
import { test } from 'vitest';
import { SEED, hotRuns } from './hot-run.js';

test(`clients see what they wrote while clusters move, seeds from ${SEED}`, { timeout: 300_000 }, () =>
  hotRuns(SEED, 'asked'),
);
