/** Says what is wrong with what a crash makes of a repair. */
import { repairDevice } from '../../src/compactor/repair.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { type Operation, RecordingDevice } from '../../src/device/recording-device.js';
import { RepairJudge } from '../property/repaired.js';
import { withExternalFlags } from '../support/damage.js';
import { inspect } from '../support/oracle.js';

/** QEMU copies where it could write in place: the one fault that a repair may bring, for a while. */
const HARMLESS = /has COPIED clear and refcount 1$/;

export interface Recorded {
  log: readonly Operation[];
  final: Uint8Array;
}

export async function recordRun(
  bytes: Uint8Array,
  run: (device: RecordingDevice) => Promise<unknown>,
): Promise<Recorded> {
  const memory = new MemoryDevice(bytes);
  const recording = new RecordingDevice(memory);
  await run(recording);
  return { log: recording.log, final: memory.bytes() };
}

export class RepairCrashJudge extends RepairJudge {
  readonly #faultsBefore: Set<string>;
  /** Where refcounts are read from a place that is none of theirs, each write there changes what they say. */
  readonly #isGarbled: boolean;
  readonly #marks: number;

  constructor(sound: Uint8Array, damaged: Uint8Array) {
    super(sound);
    const faults = inspect(damaged).corruptions;
    this.#faultsBefore = new Set(faults);
    this.#isGarbled = faults.some((line) => /^refcount|overlaps/.test(line));
    this.#marks = marksOf(damaged);
  }

  /** Of any crash state: the guest's view is kept, no fault is new but harmless ones, a mark only goes when all is well. */
  crashFlawOf(state: Uint8Array): string | null {
    const { corruptions } = inspect(state);
    const isNew = (line: string) => !this.#isGarbled && !this.#faultsBefore.has(line) && !HARMLESS.test(line);
    const fault = corruptions.find(isNew);
    if (fault !== undefined) return `a new fault: ${fault}`;
    if (marksOf(state) !== this.#marks && corruptions.length > 0) return `unmarked, but: ${corruptions[0]}`;
    // Of an external data file the view holds whole entries.
    return this.changeOf(withExternalFlags(state));
  }

  /** Whether a repair after the crash ends where the one that was cut off would have ended. */
  async repairAgain(state: Uint8Array): Promise<string | null> {
    const device = new MemoryDevice(state.slice());
    await repairDevice(device);
    return this.flawOf(device.bytes());
  }
}

function marksOf(bytes: Uint8Array): number {
  return bytes[7] === 3 ? bytes[79]! & 3 : 0;
}
