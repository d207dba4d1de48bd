/** Valid images with 1 to 8 fields of their metadata changed: refused and untouched, or compacted and right. */
import { expect, test } from 'vitest';
import { fuzz } from './fuzz.js';
import { changeFields } from './mutations.js';

const SEED = Number(process.env.SEED ?? 0);
const COUNT = Number(process.env.COUNT ?? 16_000);

test(
  `images with changed fields, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 120_000 + 50 * COUNT },
  async () => {
    const { refused, compacted, reasons, failures } = await fuzz(SEED, COUNT, changeFields);
    console.log(
      `${COUNT} images with changed fields: ${refused} refused in ${reasons.size} ways, ${compacted} compacted`,
    );
    if (failures.length > 0)
      expect.fail(`${failures.length} of ${COUNT}:\n${failures.slice(0, 5).join('\n')}`);
    if (COUNT < 10_000) return;
    // Neither so harmless that all pass, nor so wild that one check at the door refuses all.
    expect(compacted).toBeGreaterThan(COUNT / 10);
    expect(refused).toBeGreaterThan(COUNT / 2);
    expect(reasons.size).toBeGreaterThan(40);
  },
);
