/** The command itself on damaged files: one line, a documented status, the file untouched; or compacted. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { cli } from '../e2e/cli.js';
import { inspect } from '../support/oracle.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { mutantAt } from './fuzz.js';
import { addNoise, changeFields } from './mutations.js';

const SEED = Number(process.env.SEED ?? 0);
const COUNT = Number(process.env.COUNT ?? 40);

const directory = temporaryDirectory();

test(
  `qcow-compact on damaged files, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 60_000 + 1000 * COUNT },
  () => {
    let refused = 0;
    for (let index = SEED; index < SEED + COUNT; index++) {
      // One of each original.
      const { bytes, changes } = mutantAt(index * 26, index % 2 === 0 ? changeFields : addNoise);
      const path = directory.store('image.qcow2', bytes);
      const { status, signal, stderr } = cli(['--quiet', path]);
      const after = readFileSync(path);
      const what = `SEED=${index} COUNT=1: ${changes.join('; ')}`;
      expect(signal, what).toBeNull();
      if (status === 0) {
        expect(stderr, what).toBe('');
        expect(inspect(after).corruptions, what).toEqual([]);
      } else {
        refused++;
        expect([4, 5], what).toContain(status);
        expect(stderr, what).toMatch(/^qcow-compact: [^\n]*\n$/);
        expect(after.equals(bytes), what).toBe(true);
      }
    }
    if (COUNT >= 40) expect(refused).toBeGreaterThan(COUNT / 4);
  },
);
