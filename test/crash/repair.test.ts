/** Whenever a repair is cut off, the guest sees the same, nothing is worse than before, and another repair mends it. */
import { describe, expect, test } from 'vitest';
import { repairDevice } from '../../src/compactor/repair.js';
import { anyImage, small } from '../property/repaired.js';
import { inspect } from '../support/oracle.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CrashTally } from './crash-tally.js';
import { recordRun } from './repair-judge.js';
import { REPAIR_KINDS, buildDamaged } from './repair-kinds.js';
import { RepairTally } from './repair-tally.js';

const SEED = Number(process.env.SEED ?? 1);
const STATES = Number(process.env.STATES ?? 3_000);
const directory = temporaryDirectory();
const tally = new RepairTally(directory);

describe('a crash in a repair of', () => {
  test.each(REPAIR_KINDS)('$name', async (kind) => {
    const { sound, bytes, description } = buildDamaged(kind, SEED);
    const before = tally.states;
    await tally.judge(
      { sound, bytes, description: `${kind.name} ${description}` },
      (device) => repairDevice(device),
      { seed: SEED, subsetsPerWindow: 60 },
    );
    // The initial image is one.
    expect(tally.states - before).toBeGreaterThan(1);
  });
});

test(`crashes in repairs of random images, seeds from ${SEED}`, { timeout: 240_000 }, async () => {
  const until = tally.states + STATES;
  let seed = SEED;
  for (; tally.states < until; seed++) await tally.judgeRandom(seed);
  console.log(`${tally.report()}; seeds ${SEED} to ${seed - 1}`);
  expect(tally.byQemu).toBeGreaterThan(2);
});

test('a crash while only leaks are repaired leaves a valid image', { timeout: 240_000 }, async () => {
  const crashes = new CrashTally(directory);
  for (let seed = SEED; crashes.states < STATES / 2; seed++) {
    const { bytes, description } = anyImage(seed, {
      clean: false,
      ...small(seed),
    });
    if (inspect(bytes).leaks === 0) continue;
    const { log, final } = await recordRun(bytes, (device) =>
      repairDevice(device, { what: 'leaks', roundBytes: 2048 }),
    );
    await crashes.judge({ initial: bytes, log, final }, { seed, subsetsPerWindow: 30, description });
  }
  console.log(crashes.report());
});
