/** Damage that nobody thought of: refused and untouched, or repaired, clean, and the guest sees what it saw before. */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { repairDevice } from '../../src/compactor/repair.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { QcowError } from '../../src/errors.js';
import { withExternalFlags } from '../support/damage.js';
import { compareGuestView, guestView, inspect } from '../support/oracle.js';
import { measureAllocations } from './allocations.js';
import { mutantAt } from './fuzz.js';
import { changeFields, type Mutant } from './mutations.js';
import { MAX_ALLOCATED_BYTES, MAX_SECONDS } from './verdict.js';

const SEED = Number(process.env.SEED ?? 0);
const COUNT = Number(process.env.COUNT ?? 1_500);

const tally = { refused: 0, mended: 0, sound: 0 };

async function flawOf({ bytes }: Mutant): Promise<string | null> {
  const device = new MemoryDevice(bytes);
  const start = performance.now();
  const { allocated, result } = await measureAllocations(() =>
    repairDevice(device).catch((error: unknown) => error),
  );
  if ((performance.now() - start) / 1000 > MAX_SECONDS) return 'it took too long';
  if (allocated > MAX_ALLOCATED_BYTES) return `it allocated ${allocated} bytes`;
  if (result instanceof QcowError) {
    tally.refused++;
    if (/[\n\r]|undefined|NaN|\[object|Infinity/.test(result.message)) return `it said: ${result.message}`;
    return Buffer.from(device.bytes()).equals(bytes) ? null : 'it was refused, but changed';
  }
  if (result instanceof Error) return `it threw ${result.stack}`;
  tally[inspect(bytes).corruptions.length > 0 ? 'mended' : 'sound']++;
  const { corruptions, leaks } = inspect(device.bytes());
  if (corruptions.length > 0) return `corrupt: ${corruptions[0]}`;
  if (leaks > 0) return `${leaks} leaks`;
  const seen = guestView(plain(bytes));
  const difference = compareGuestView(seen, plain(device.bytes()));
  if (difference !== null) return `the guest view changed: ${difference}`;
  await compactDevice(device, { runtimeAsserts: true });
  const changed = compareGuestView(seen, plain(device.bytes()));
  return changed === null ? null : `the guest view changed with the compaction: ${changed}`;
}

/** Without what a repair may change in what the view holds as it is: marks, and flags of an external data file. */
function plain(bytes: Uint8Array): Uint8Array {
  const copy = withExternalFlags(bytes);
  if (copy[7] === 3) copy[79]! &= ~3;
  return copy;
}

test(
  `images with changed fields, seeds from ${SEED}, ${COUNT} of them`,
  { timeout: 120_000 + 50 * COUNT },
  async () => {
    const failures: string[] = [];
    for (let index = SEED; index < SEED + COUNT; index++) {
      const mutant = mutantAt(index, changeFields);
      const flaw = await flawOf(mutant);
      if (flaw !== null) failures.push(`SEED=${index} COUNT=1: ${flaw}\n  ${mutant.changes.join('; ')}`);
    }
    console.log(`${COUNT} images with changed fields: ${JSON.stringify(tally)}`);
    if (failures.length > 0)
      expect.fail(`${failures.length} of ${COUNT}:\n${failures.slice(0, 5).join('\n')}`);
    if (COUNT < 1000) return;
    expect(tally.refused).toBeGreaterThan(COUNT / 4);
    expect(tally.mended).toBeGreaterThan(COUNT / 20);
  },
);
