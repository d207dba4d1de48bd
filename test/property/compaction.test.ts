/** Whatever the image, compacting it keeps what the guest sees and leaves the least file (I1, I2, I8). */
import { expect, test } from 'vitest';
import { refcountsLimitSharing } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import { Random } from '../support/random.js';
import { expectNoFlaws, flawOf, randomOptions } from './flaw.js';

const SEED = Number(process.env.SEED ?? 1_000);
const COUNT = Number(process.env.COUNT ?? 600);

test(
  `random images compact to the least file, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    await expectNoFlaws(SEED, COUNT, (seed) => ({ image: randomImage(seed) }));
    console.log(`compacted ${COUNT} random images, SEED=${SEED} COUNT=${COUNT}`);
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
    let squeezed = 0;
    await expectNoFlaws(SEED, COUNT / 2, (seed) => {
      const image = randomImage(seed, { compressed: true });
      if (!refcountsLimitSharing(image.bytes)) squeezed++;
      return { image };
    });
    expect(squeezed).toBeGreaterThan(COUNT / 4);
  },
);

test(
  `extents whose refcounts allow few in a cluster, seeds from ${SEED}, ${COUNT / 3} of them`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    let limited = 0;
    await expectNoFlaws(SEED, COUNT / 3, (seed) => {
      const random = new Random(seed ^ 0x7a66);
      const image = randomImage(seed, {
        compressed: true,
        refcountOrder: random.pick([1, 1, 1, 2, 0]),
        clusterBits: random.pick([11, 12, 13]),
      });
      if (refcountsLimitSharing(image.bytes)) limited++;
      const rounds = random.pick([{}, { roundBytes: 16_384 }, { roundBytes: 65_536 }]);
      return { image, options: { ...randomOptions(seed), ...rounds } };
    });
    expect(limited).toBeGreaterThan(COUNT / 6);
  },
);
