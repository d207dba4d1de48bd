/** Whatever QEMU did to an image: it compacts to the least file, and every layer reads the same. */
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { flawOfHistory } from './history-verdict.js';

const SEED = Number(process.env.SEED ?? 1);
const COUNT = Number(process.env.COUNT ?? 15);

const directory = temporaryDirectory();

test(
  `images with a past, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 60_000 + 20_000 * COUNT },
  async () => {
    const outcomes = { compacted: 0, clean: 0, damaged: 0 };
    for (let seed = SEED; seed < SEED + COUNT; seed++) {
      const { flaw, outcome, commands } = await flawOfHistory(seed, directory.path('.'));
      if (flaw !== null) expect.fail(`SEED=${seed} COUNT=1: ${flaw}\n  ${commands.join('\n  ')}`);
      outcomes[outcome]++;
    }
    const { compacted, clean, damaged } = outcomes;
    console.log(
      `${COUNT} images with a past: ${compacted} compacted, ${clean} compact already, ${damaged} damaged`,
    );
    // Else it would prove nothing.
    if (COUNT >= 15) expect(compacted).toBeGreaterThan(COUNT / 3);
  },
);
