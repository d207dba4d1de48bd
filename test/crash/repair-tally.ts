/** Judges every crash state of a repair; of a sample also what another repair makes of it, ours and QEMU's. */
import { readFileSync, writeFileSync } from 'node:fs';
import { expect } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { repairDevice } from '../../src/compactor/repair.js';
import type { RecordingDevice } from '../../src/device/recording-device.js';
import { type DamagedImage, damagedImage, small } from '../property/repaired.js';
import { crashStates } from '../support/crash-simulator.js';
import { checkImage, repairByQemu } from '../support/qemu.js';
import type { Directory } from './crash-tally.js';
import { RepairCrashJudge, recordRun } from './repair-judge.js';

const REPAIR_EVERY = 15;
const ASK_QEMU_EVERY = 250;

type Run = (device: RecordingDevice) => Promise<unknown>;

export class RepairTally {
  states = 0;
  repairs = 0;
  byQemu = 0;
  readonly #directory: Directory;

  constructor(directory: Directory) {
    this.#directory = directory;
  }

  async judge(
    { sound, bytes, description }: DamagedImage,
    run: Run,
    { seed, subsetsPerWindow }: { seed: number; subsetsPerWindow: number },
  ): Promise<void> {
    const judge = new RepairCrashJudge(sound, bytes);
    const { log, final } = await recordRun(bytes, run);
    expect(judge.flawOf(final), description).toBeNull();
    for (const { label, bytes: state } of crashStates(bytes, log, { seed, subsetsPerWindow })) {
      const what = `after a crash: ${label}\n  ${description}`;
      expect(judge.crashFlawOf(state), what).toBeNull();
      if (++this.states % REPAIR_EVERY === 0) {
        this.repairs++;
        expect(await judge.repairAgain(state), `repaired ${what}`).toBeNull();
      }
      if (this.states % ASK_QEMU_EVERY === 0 && isForQemu(bytes, description)) {
        this.byQemu++;
        expect(this.#flawByQemu(state, judge), `by QEMU ${what}`).toBeNull();
      }
    }
  }

  /** A random damaged image, repaired or repaired and compacted. */
  async judgeRandom(seed: number): Promise<void> {
    const isBoth = seed % 3 === 0;
    const run: Run = (device) => (isBoth ? compactDevice(device, { repair: 'all' }) : repairDevice(device));
    await this.judge(damagedImage(seed, small(seed)), run, { seed, subsetsPerWindow: 20 });
  }

  #flawByQemu(state: Uint8Array, judge: RepairCrashJudge): string | null {
    const path = this.#directory.path('crashed.qcow2');
    writeFileSync(path, state);
    repairByQemu(path);
    const { corruptions, leaks, errors } = checkImage(path);
    if (corruptions + leaks + errors > 0)
      return `${corruptions} corruptions, ${leaks} leaks, ${errors} errors`;
    const bytes = readFileSync(path);
    // QEMU writes the header anew, its extensions and the name of the backing file at other places.
    bytes.set(judge.sound.subarray(0, 40));
    bytes.set(judge.sound.subarray(72, judge.clusterSize), 72);
    return judge.changeOf(bytes);
  }

  report(): string {
    return `${this.states} crash states of repairs, ${this.repairs} repaired again, ${this.byQemu} by QEMU`;
  }
}

/**
 * The keys and data files of some never existed. A flag of a compressed cluster QEMU only complains about, and over a
 * damaged refcount table it stumbles. The header names the directory of bitmaps, which a compaction moves.
 */
function isForQemu(bytes: Uint8Array, description: string): boolean {
  const hasDataFile = bytes[7] === 3 && (bytes[79]! & 4) !== 0;
  return bytes[35] === 0 && !hasDataFile && !/compress|bitmap |refcount table (entry )?at/.test(description);
}
