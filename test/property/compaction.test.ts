/** Whatever the image, compacting it keeps what the guest sees and leaves the least file (I1, I2, I8). */
import { expect, test } from 'vitest';
import { refcountsLimitSharing } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import { flawOf, randomOptions } from './flaw.js';

const SEED = Number(process.env.SEED ?? 1_000);
const COUNT = Number(process.env.COUNT ?? 600);

test(
  `random images compact to the least file, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    const failures: string[] = [];
    for (let seed = SEED; seed < SEED + COUNT; seed++) {
      const { bytes, description } = randomImage(seed);
      const options = randomOptions(seed);
      const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
      if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
    }
    console.log(`compacted ${COUNT} random images, SEED=${SEED} COUNT=${COUNT}`);
    if (failures.length > 0) {
      expect.fail(`${failures.length} of ${COUNT} images:\n${failures.slice(0, 5).join('\n')}`);
    }
  },
);

test('what stepped aside beyond the goal finds its place still there in a later round', async () => {
  const { bytes } = randomImage(551266073, { clusterBits: 9, maxClusters: 80, layout: {} });
  expect(await flawOf(bytes, { roundBytes: 512, maxMoves: 3 })).toBeNull();
});

test(
  `compressed extents are squeezed into the fewest clusters, seeds from ${SEED}, ${COUNT / 2} of them`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    const failures: string[] = [];
    let squeezed = 0;
    for (let seed = SEED; seed < SEED + COUNT / 2; seed++) {
      const { bytes, description } = randomImage(seed, { compressed: true });
      const { keepErased, punch, dropPreallocation, maxMoves } = randomOptions(seed);
      const options = {
        keepErased,
        punch,
        dropPreallocation,
        ...(maxMoves === undefined ? {} : { maxMoves }),
      };
      if (!refcountsLimitSharing(bytes)) squeezed++;
      const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
      if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
    }
    if (failures.length > 0) expect.fail(`${failures.length}:\n${failures.slice(0, 5).join('\n')}`);
    expect(squeezed).toBeGreaterThan(COUNT / 4);
  },
);
