/** Judges every crash state of recorded runs; a sample also by qemu-img and by a second run. */
import { expect } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { crashStates } from '../support/crash-simulator.js';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import { readLayout } from '../support/oracle-layout.js';
import { checkImage } from '../support/qemu.js';
import { Judge, type RecordedRun } from './recorded-run.js';

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
  store(name: string, bytes: Uint8Array): string;
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
        const found = await this.#runAgain(run.initial, bytes, judge);
        if (found !== null) expect.fail(`${found}\n  second run after a crash: ${label}\n  ${description}`);
      }
      if (this.states % ASK_QEMU_EVERY === 0) {
        this.qemuChecks++;
        const { corruptions, errors } = checkImage(this.#directory.store('crashed.qcow2', bytes));
        expect({ corruptions, errors }, `qemu-img: ${label}; ${description}`).toEqual({
          corruptions: 0,
          errors: 0,
        });
      }
      if (this.states % 100 === 0 && performance.now() > until) return;
    }
  }

  async #runAgain(initial: Uint8Array, crashed: Uint8Array, judge: Judge): Promise<string | null> {
    this.secondRuns++;
    const minimal = minimalClusterCount(initial);
    const device = new MemoryDevice(crashed);
    await compactDevice(device, { runtimeAsserts: true });
    const bytes = device.bytes();
    const flaw = judge.flawOf(bytes);
    if (flaw !== null) return flaw;
    const { leaks, staleRefcountsPastEnd, clusterCount } = inspect(bytes);
    if (leaks > 0 || staleRefcountsPastEnd > 0) return 'leaks remain';
    if (clusterCount !== minimalClusterCount(crashed))
      return `${clusterCount} clusters are left, not the least`;
    if (clusterCount === minimal) return null;
    this.longerSecondRuns++;
    return clusterCount > minimal && sharesClusters(initial)
      ? null
      : `${clusterCount} clusters are left, but ${minimal} without the crash`;
  }

  report(): string {
    return (
      `${this.states} crash states of ${this.runs} runs; ${this.qemuChecks} also by qemu-img, ` +
      `${this.secondRuns} by a second run (${this.longerSecondRuns} with a shared cluster split by the crash)`
    );
  }
}

/** Whether some cluster has several references, in which case a crash between two of them leaves two copies. */
function sharesClusters(bytes: Uint8Array): boolean {
  const layout = readLayout(bytes);
  if (typeof layout === 'string') throw new Error(layout);
  if (layout.snapshots.length > 0) return true;
  const seen = new Set<number>();
  for (let l1 = 0; l1 < layout.l1Size; l1++) {
    const table = offsetAt(layout.view, layout.l1Offset + l1 * 8);
    if (table === 0) continue;
    for (let at = table; at < table + layout.clusterSize; at += 8) {
      const target = offsetAt(layout.view, at);
      if (target === 0) continue;
      if (seen.has(target)) return true;
      seen.add(target);
    }
  }
  return false;
}

function offsetAt(view: DataView, at: number): number {
  return (view.getUint32(at) & 0xffffff) * 2 ** 32 + ((view.getUint32(at + 4) & 0xfffffe00) >>> 0);
}
