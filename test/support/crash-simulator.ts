/**
 * What a file may look like after a crash, from the log of a recording device (design I2).
 *
 * Model: what precedes a flush is durable. Of the operations since the last flush any subset persists, in any
 * order, each 512-byte sector of a write or a punch whole or not at all: a sector shows its durable content or
 * its content after any operation of the window that touched it. A truncate persists or not; what it cut off is gone, and
 * reads as zeroes where the file grows again. A write that extends the file leaves the length as it was, ends it
 * at its last sector that persisted, or ends it where the whole write ends.
 *
 * Overwriting a sector is seen in the order of the log, so "any order" is a matter of which versions persist.
 */

import type { Modification, Operation } from '../../src/device/recording-device.js';
import { ReplayedFile, WindowPlan } from './crash-window.js';
import { Random } from './random.js';

export interface Window {
  /** Index in the log of the first operation. */
  first: number;
  operations: Modification[];
}

export interface CrashState {
  /** Says how to make it again: seed, window (counted in `windows`), which operations of the log persisted. */
  label: string;
  /**
   * The file. It shares one buffer with all states of the generator: copy it to keep it beyond the next state, and
   * to change it.
   */
  bytes: Uint8Array;
}

export interface CrashOptions {
  seed: number;
  /** Random states per window. A window that has no more states than this gets every one of them once instead. */
  subsetsPerWindow: number;
}

/** Operations between flushes; windows without any are left out. */
export function windows(log: readonly Operation[]): Window[] {
  const result: Window[] = [];
  let current: Window | undefined;
  log.forEach((operation, index) => {
    if (operation.kind === 'flush') {
      current = undefined;
      return;
    }
    if (current === undefined) {
      current = { first: index, operations: [] };
      result.push(current);
    }
    current.operations.push(operation);
  });
  return result;
}

/** The initial image, then per window every prefix of its operations, then subsets of their sectors. */
export function* crashStates(
  initial: Uint8Array,
  log: readonly Operation[],
  { seed, subsetsPerWindow }: CrashOptions,
): Generator<CrashState, void, undefined> {
  const random = new Random(seed);
  const live = new ReplayedFile(initial, log);
  const state = new ReplayedFile(initial, log);
  yield { label: 'initial image', bytes: state.view() };

  let windowIndex = 0;
  for (const { first, operations } of windows(log)) {
    const name = `window ${String(windowIndex)}`;
    const plan = new WindowPlan(operations, live);

    for (let index = 0; index < operations.length; index++) {
      const step = plan.steps[index];
      if (step !== undefined) state.apply(step, plan.everything);
      yield { label: `${name}, operations up to ${String(first + index)}`, bytes: state.view() };
    }

    const exhaustive = plan.combinations <= subsetsPerWindow;
    const count = exhaustive ? plan.combinations : subsetsPerWindow;
    for (let index = 0; index < count; index++) {
      plan.resetTo(state);
      const what = exhaustive ? plan.chooseNumber(index) : plan.chooseAtRandom(random);
      for (const step of plan.steps) state.apply(step, plan.choice);
      const label = exhaustive
        ? `${name}, combination ${what}`
        : `seed ${String(seed)}, ${name}, state ${String(index)}: ${what}`;
      yield { label, bytes: state.view() };
    }

    plan.resetTo(state);
    for (const step of plan.steps) state.apply(step, plan.everything);
    windowIndex += 1;
  }
}
