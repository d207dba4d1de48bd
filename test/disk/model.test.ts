/** The disk against a model of it, byte by byte, with several clients at a time, over all kinds of clusters. */
import { test } from 'vitest';
import { image } from '../support/image-builder.js';
import { modelRun } from './model-run.js';

const SEED = Number(process.env.SEED ?? 1);
const OPERATIONS = Number(process.env.OPERATIONS ?? 100_000);
const PER_IMAGE = 1000;

test(`several clients at a time see what they wrote, seeds from ${SEED}`, { timeout: 240_000 }, async () => {
  let operations = 0;
  for (let seed = SEED; operations < OPERATIONS; seed++, operations += PER_IMAGE) {
    await modelRun(seed, PER_IMAGE);
  }
  console.log(`${operations} operations on ${operations / PER_IMAGE} images`);
});

test(`the same where hardly a table stays in memory, seeds from ${SEED}`, { timeout: 120_000 }, async () => {
  for (let seed = SEED; seed < SEED + 8; seed++) {
    const builder = image({ virtualSize: 24 * 64 * 512, seed });
    for (let cluster = 0; cluster < 24 * 64; cluster += 5) builder.write(cluster);
    builder.snapshot('a');
    for (let cluster = 0; cluster < 24 * 64; cluster += 7) builder.write(cluster);
    const built = { bytes: builder.build(), base: null, description: '24 tables' };
    const mix = { clients: 8, mostBytes: 3000 };
    await modelRun(seed, 2000, { image: built, mix, cacheBytes: 0 });
  }
});
