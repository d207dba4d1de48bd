/** Judges every crash state of recorded runs; a sample also by qemu-img and by a second run. */
import { expect } from 'vitest';
import { crashStates } from '../support/crash-simulator.js';
import { checkBuiltImage } from '../support/qemu.js';
import { Judge, type RecordedRun } from './recorded-run.js';
import { secondRun } from './second-run.js';

const RUN_AGAIN_EVERY = 500;
const ASK_QEMU_EVERY = 2_500;

export interface TallyOptions {
  seed: number;
  subsetsPerWindow: number;
  /** What made the run, in words that let it be made again. */
  description: string;
}

/** Where what qemu-img is to judge is written. */
export interface Directory {
  path(name: string): string;
}

export class CrashTally {
  states = 0;
  runs = 0;
  secondRuns = 0;
  /** Second runs that ended longer, since the crash had left two copies of a shared cluster in use. */
  longerSecondRuns = 0;
  qemuChecks = 0;
  readonly #directory: Directory;

  constructor(directory: Directory) {
    this.#directory = directory;
  }

  /** Fails the test with the label of the first state that is no valid image, or shows the guest another disk. */
  async judge(
    run: RecordedRun,
    { seed, subsetsPerWindow, description }: TallyOptions,
    until = Infinity,
  ): Promise<void> {
    const judge = new Judge(run.initial);
    this.runs++;
    for (const { label, bytes } of crashStates(run.initial, run.log, { seed, subsetsPerWindow })) {
      this.states++;
      const flaw = judge.flawOf(bytes);
      if (flaw !== null) expect.fail(`${flaw}\n  after a crash: ${label}\n  ${description}`);
      if (this.states % RUN_AGAIN_EVERY === 0) {
        const { flaw, split } = await secondRun(run.initial, bytes, judge, run.options);
        this.secondRuns++;
        if (split) this.longerSecondRuns++;
        if (flaw !== null)
          expect.fail(`${flaw}
  second run after a crash: ${label}
  ${description}`);
      }
      if (this.states % ASK_QEMU_EVERY === 0) {
        this.qemuChecks++;
        const { corruptions, errors } = checkBuiltImage(this.#directory.path('crashed.qcow2'), bytes);
        expect({ corruptions, errors }, `qemu-img: ${label}; ${description}`).toEqual({
          corruptions: 0,
          errors: 0,
        });
      }
      if (this.states % 100 === 0 && performance.now() > until) return;
    }
  }

  report(): string {
    return (
      `${this.states} crash states of ${this.runs} runs; ${this.qemuChecks} also by qemu-img, ` +
      `${this.secondRuns} by a second run (${this.longerSecondRuns} with a shared cluster split by the crash)`
    );
  }
}
