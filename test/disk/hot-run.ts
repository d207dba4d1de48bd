/** The disk against a model of it, as in model.test.ts, while the recycler moves what it can beside the clients. */
import { expect } from 'vitest';
import { type ModelOptions, modelRun } from './model-run.js';

export const SEED = Number(process.env.SEED ?? 1);
const OPERATIONS = Number(process.env.OPERATIONS ?? 450_000);
const PER_IMAGE = 1500;

/** From `seed` on. */
export async function hotRuns(seed: number, hot: NonNullable<ModelOptions['hot']>): Promise<void> {
  let operations = 0;
  let moved = 0;
  for (let nth = seed; operations < OPERATIONS; nth++, operations += PER_IMAGE)
    moved += await modelRun(nth, PER_IMAGE, { hot });
  console.log(`${operations} operations on ${operations / PER_IMAGE} images, ${moved} references updated`);
  expect(moved).toBeGreaterThan(operations / 100);
}
