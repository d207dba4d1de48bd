/** Whenever a repair is cut off, the guest sees the same, nothing is worse than before, and another repair mends it. */
import { writeFileSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { repairDevice } from '../../src/compactor/repair.js';
import type { RecordingDevice } from '../../src/device/recording-device.js';
import { anyImage, damagedImage, small, type DamagedImage } from '../property/repaired.js';
import { crashStates } from '../support/crash-simulator.js';
import { checkImage, repairByQemu } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CrashTally } from './crash-tally.js';
import { REPAIR_KINDS, buildDamaged } from './repair-kinds.js';
import { RepairCrashJudge, recordRun } from './repair-judge.js';

const SEED = Number(process.env.SEED ?? 1);
const STATES = Number(process.env.STATES ?? 10_000);
const REPAIR_EVERY = 15;
const ASK_QEMU_EVERY = 250;
const directory = temporaryDirectory();

const tally = { states: 0, repairs: 0, qemu: 0 };

async function judge(
  { sound, bytes, description }: DamagedImage,
  run: (device: RecordingDevice) => Promise<unknown>,
  subsetsPerWindow: number,
): Promise<void> {
  const judge = new RepairCrashJudge(sound, bytes);
  const { log, final } = await recordRun(bytes, run);
  expect(judge.flawOf(final), description).toBeNull();
  for (const { label, bytes: state } of crashStates(bytes, log, { seed: SEED, subsetsPerWindow })) {
    const what = `after a crash: ${label}\n  ${description}`;
    expect(judge.crashFlawOf(state), what).toBeNull();
    if (++tally.states % REPAIR_EVERY === 0) {
      tally.repairs++;
      expect(await judge.repairAgain(state), `repaired ${what}`).toBeNull();
    }
    if (tally.states % ASK_QEMU_EVERY === 0 && isForQemu(bytes, description)) {
      tally.qemu++;
      const path = directory.path('crashed.qcow2');
      writeFileSync(path, state);
      repairByQemu(path);
      expect(checkImage(path), `by QEMU ${what}`).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
      const bytesByQemu = readFileSync(path);
      // QEMU writes the header anew, its extensions and the name of the backing file at other places.
      bytesByQemu.set(sound.subarray(0, 40));
      bytesByQemu.set(sound.subarray(72, judge.clusterSize), 72);
      expect(judge.changeOf(bytesByQemu), `by QEMU ${what}`).toBeNull();
    }
  }
}

/** The keys and data files of the others never existed; a flag of compressed clusters it only complains about. */
function isForQemu(bytes: Uint8Array, description: string): boolean {
  const hasDataFile = bytes[7] === 3 && (bytes[79]! & 4) !== 0;
  return bytes[35] === 0 && !hasDataFile && !/compress/.test(description);
}

describe('a crash in a repair of', () => {
  test.each(REPAIR_KINDS)('$name', async (kind) => {
    const { sound, bytes, description } = buildDamaged(kind, SEED);
    const { log } = await recordRun(bytes, (device) => repairDevice(device));
    expect(log.length).toBeGreaterThan(0);
    await judge(
      { sound, bytes, description: `${kind.name} ${description}` },
      (device) => repairDevice(device),
      60,
    );
  });
});

test(`crashes in repairs of random images, seeds from ${SEED}`, { timeout: 240_000 }, async () => {
  const until = tally.states + STATES;
  let seed = SEED;
  for (; tally.states < until; seed++) {
    const image = damagedImage(seed, small(seed));
    const isBoth = seed % 3 === 0;
    await judge(
      image,
      (device) => (isBoth ? compactDevice(device, { repair: 'all' }) : repairDevice(device)),
      20,
    );
  }
  console.log(
    `${tally.states} crash states, ${tally.repairs} repaired again, ${tally.qemu} by QEMU; seeds ${SEED} to ${seed - 1}`,
  );
  expect(tally.qemu).toBeGreaterThan(5);
});

test('a crash while only leaks are repaired leaves a valid image', { timeout: 240_000 }, async () => {
  const crashes = new CrashTally(directory);
  for (let seed = SEED; crashes.states < STATES / 2; seed++) {
    const { bytes, description } = anyImage(seed, { clean: false, ...small(seed) });
    const { log, final } = await recordRun(bytes, (device) =>
      repairDevice(device, { what: 'leaks', roundBytes: 2048 }),
    );
    await crashes.judge({ initial: bytes, log, final }, { seed, subsetsPerWindow: 30, description });
  }
  console.log(crashes.report());
});
