/** The disk against a model of it, as in model.test.ts, while the recycler moves what it can beside the clients. */
import { expect, test } from 'vitest';
import { modelRun } from './model-run.js';

const SEED = Number(process.env.SEED ?? 1);
const OPERATIONS = Number(process.env.OPERATIONS ?? 40_000);
const PER_IMAGE = 400;

test(
  `clients see what they wrote while clusters move, seeds from ${SEED}`,
  { timeout: 240_000 },
  async () => {
    let operations = 0;
    let moved = 0;
    for (let seed = SEED; operations < OPERATIONS; seed++, operations += PER_IMAGE) {
      moved += await modelRun(seed, PER_IMAGE, { isHot: true });
    }
    console.log(`${operations} operations on ${operations / PER_IMAGE} images, ${moved} references updated`);
    expect(moved).toBeGreaterThan(operations / 20);
  },
);
