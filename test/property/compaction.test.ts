/** Whatever the image, compacting it keeps what the guest sees and leaves the least file (I1, I2, I8). */
import { expect, test } from 'vitest';
import { refcountsLimitSharing } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import { Random } from '../support/random.js';
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
      const options = randomOptions(seed);
      if (!refcountsLimitSharing(bytes)) squeezed++;
      const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
      if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
    }
    if (failures.length > 0) expect.fail(`${failures.length}:\n${failures.slice(0, 5).join('\n')}`);
    expect(squeezed).toBeGreaterThan(COUNT / 4);
  },
);

test(
  `extents whose refcounts allow few in a cluster, seeds from ${SEED}, ${COUNT / 3} of them`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    const failures: string[] = [];
    let limited = 0;
    for (let seed = SEED; seed < SEED + COUNT / 3; seed++) {
      const random = new Random(seed ^ 0x7a66);
      const { bytes, description } = randomImage(seed, {
        compressed: true,
        refcountOrder: random.pick([1, 1, 1, 2, 0]),
        clusterBits: random.pick([11, 12, 13]),
      });
      const options = {
        ...randomOptions(seed),
        ...random.pick([{}, { roundBytes: 16_384 }, { roundBytes: 65_536 }]),
      };
      if (refcountsLimitSharing(bytes)) limited++;
      const flaw = await flawOf(bytes, options).catch((error: unknown) => `threw ${String(error)}`);
      if (flaw !== null) failures.push(`${flaw}\n  ${JSON.stringify(options)}\n  ${description}`);
    }
    if (failures.length > 0) expect.fail(`${failures.length}:\n${failures.slice(0, 5).join('\n')}`);
    expect(limited).toBeGreaterThan(COUNT / 6);
  },
);
