/** The disk against a model of it, byte by byte, with several clients at a time, over all kinds of clusters. */
import { test } from 'vitest';
import { modelRun } from './model-run.js';

const SEED = Number(process.env.SEED ?? 1);
const OPERATIONS = Number(process.env.OPERATIONS ?? 100_000);
const PER_IMAGE = 500;

test(`several clients at a time see what they wrote, seeds from ${SEED}`, { timeout: 240_000 }, async () => {
  let operations = 0;
  for (let seed = SEED; operations < OPERATIONS; seed++, operations += PER_IMAGE) {
    await modelRun(seed, PER_IMAGE);
  }
  console.log(`${operations} operations on ${operations / PER_IMAGE} images`);
});
