/** Valid images with stretches of bytes overwritten, repeated, cut out, and files of noise alone. */
import { expect, test } from 'vitest';
import { fuzz } from './fuzz.js';
import { addNoise } from './mutations.js';

const SEED = Number(process.env.SEED ?? 0);
const COUNT = Number(process.env.COUNT ?? 5_000);

test(
  `images with noise, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 120_000 + 50 * COUNT },
  async () => {
    const { refused, compacted, reasons, failures } = await fuzz(SEED, COUNT, addNoise);
    console.log(
      `${COUNT} images with noise: ${refused} refused in ${reasons.size} ways, ${compacted} compacted`,
    );
    if (failures.length > 0)
      expect.fail(`${failures.length} of ${COUNT}:\n${failures.slice(0, 5).join('\n')}`);
    if (COUNT < 5_000) return;
    expect(compacted).toBeGreaterThan(COUNT / 20);
    expect(refused).toBeGreaterThan(COUNT / 4);
  },
);
