/** One window between two flushes, for the crash simulator: its operations as steps, of which parts can be applied. */

import type { Modification, Operation } from '../../src/device/recording-device.js';
import type { Random } from './random.js';

const SECTOR_BYTES = 512;

/**
 * One operation of a window, with the slots of the choice vector that decide what of it persists.
 * Sectors: one slot each from `slot`, 0 or 1. Length: `lengthSlot`, 0 (not extended), 1 (to its end) or 2 (to its
 * last sector that persisted); -1 where the operation cannot extend the file.
 */
interface SectorStep {
  kind: 'sectors';
  slot: number;
  sectorCount: number;
  /** Offset of the first sector. */
  start: number;
  /** These sectors of the file as the operation left them. */
  after: Uint8Array;
  end: number;
  lengthSlot: number;
}

interface TruncateStep {
  kind: 'truncate';
  slot: number;
  length: number;
}

type Step = SectorStep | TruncateStep;

/** A file of fixed capacity and variable length. */
export class ReplayedFile {
  readonly content: Uint8Array;
  length: number;

  constructor(initial: Uint8Array, log: readonly Operation[]) {
    let capacity = initial.length;
    for (const operation of log) {
      if (operation.kind === 'write')
        capacity = Math.max(capacity, operation.offset + operation.bytes.length);
      if (operation.kind === 'truncate') capacity = Math.max(capacity, operation.length);
    }
    this.content = new Uint8Array(roundUp(capacity));
    this.content.set(initial);
    this.length = initial.length;
  }

  view(): Uint8Array {
    return this.content.subarray(0, this.length);
  }

  /** Does what `choice` says persists of the step. */
  apply(step: Step, choice: Uint8Array): void {
    if (step.kind === 'truncate') {
      if (choice[step.slot] === 0) return;
      this.content.fill(0, step.length);
      this.length = step.length;
      return;
    }
    const { slot, sectorCount, start, after } = step;
    let persistedEnd = 0;
    let sector = 0;
    // Runs, not sectors: a copied cluster that persists whole is one memory copy.
    while (sector < sectorCount) {
      if (choice[slot + sector] === 0) {
        sector += 1;
        continue;
      }
      const runStart = sector;
      while (sector < sectorCount && choice[slot + sector] === 1) sector += 1;
      const run = after.subarray(runStart * SECTOR_BYTES, sector * SECTOR_BYTES);
      this.content.set(run, start + runStart * SECTOR_BYTES);
      persistedEnd = start + sector * SECTOR_BYTES;
    }
    const extend = step.lengthSlot < 0 ? 0 : choice[step.lengthSlot];
    if (extend === 1) this.length = Math.max(this.length, step.end);
    if (extend === 2) this.length = Math.max(this.length, Math.min(persistedEnd, step.end));
  }
}

/** The operations of one window as steps, the vector that chooses among their crash states, and the way back. */
export class WindowPlan {
  readonly steps: Step[] = [];
  readonly choice: Uint8Array;
  /** The choice by which everything persists. */
  readonly everything: Uint8Array;
  /** Number of different choices, or Infinity for a great many. */
  readonly combinations: number;
  readonly #radix: Uint8Array;
  readonly #baseLength: number;
  /** Stretches of the file that the window may change, with their content before it. */
  readonly #undo: { start: number; before: Uint8Array }[] = [];

  /** Takes `live` from the state before the window to the one after it. */
  constructor(operations: readonly Modification[], live: ReplayedFile) {
    this.#baseLength = live.length;
    const before = live.content.slice();
    let shortest = live.length;
    for (const operation of operations) {
      if (operation.kind === 'truncate') shortest = Math.min(shortest, operation.length);
    }

    const radix: number[] = [];
    const touched = new Uint8Array(live.content.length / SECTOR_BYTES);
    for (const operation of operations) {
      const step = stepOf(operation, radix, shortest, live);
      const start = step.kind === 'truncate' ? step.length : step.start;
      const end = step.kind === 'truncate' ? live.content.length : step.start + step.after.length;
      touched.fill(1, Math.floor(start / SECTOR_BYTES), end / SECTOR_BYTES);
      this.steps.push(step);
    }
    for (let from = touched.indexOf(1); from >= 0;) {
      const hole = touched.indexOf(0, from);
      const to = hole < 0 ? touched.length : hole;
      this.#undo.push({
        start: from * SECTOR_BYTES,
        before: before.slice(from * SECTOR_BYTES, to * SECTOR_BYTES),
      });
      from = hole < 0 ? -1 : touched.indexOf(1, to);
    }

    this.#radix = Uint8Array.from(radix);
    this.choice = new Uint8Array(radix.length);
    this.everything = new Uint8Array(radix.length).fill(1);
    this.combinations = radix.reduce((product, values) => product * values, 1);
  }

  /** Puts the file back to what it was before the window. */
  resetTo(file: ReplayedFile): void {
    for (const { start, before } of this.#undo) file.content.set(before, start);
    file.length = this.#baseLength;
  }

  /** The index-th of all choices. */
  chooseNumber(index: number): string {
    let rest = index;
    for (let slot = 0; slot < this.choice.length; slot++) {
      const values = this.#radix[slot] as number;
      this.choice[slot] = rest % values;
      rest = Math.floor(rest / values);
    }
    return this.choice.join('');
  }

  /** A choice of a kind that finds bugs: thin, dense, torn, whole operations, one thing missing, one thing only. */
  chooseAtRandom(random: Random): string {
    const { choice, steps } = this;
    const anyStep = random.int(steps.length);
    const anySlot = random.int(choice.length);
    switch (random.int(7)) {
      case 0: {
        const density = random.uint32() / 2 ** 32;
        this.#scatter(random, 0, choice.length, density);
        return `each sector with probability ${density.toFixed(3)}`;
      }
      case 1:
        for (const step of steps) this.#whole(step, random.chance(0.5) ? 1 : 0);
        return 'some whole operations';
      case 2:
        choice.fill(1);
        choice[anySlot] = 0;
        return `all but slot ${String(anySlot)}`;
      case 3:
        choice.fill(0);
        choice[anySlot] = 1;
        return `only slot ${String(anySlot)}`;
      case 4:
        choice.fill(1);
        this.#whole(steps[anyStep] as Step, 0);
        return `all but operation ${String(anyStep)} of the window`;
      case 5:
        choice.fill(0);
        this.#tear(random, steps[anyStep] as Step);
        return `only operation ${String(anyStep)} of the window, torn`;
      default:
        choice.fill(0);
        for (let index = 0; index < anyStep; index++) this.#whole(steps[index] as Step, 1);
        this.#tear(random, steps[anyStep] as Step);
        return `operation ${String(anyStep)} of the window torn, after all before it`;
    }
  }

  #whole(step: Step, value: 0 | 1): void {
    const [from, to] = slotsOf(step);
    this.choice.fill(value, from, to);
  }

  /** A head, a tail or scattered sectors of one operation. */
  #tear(random: Random, step: Step): void {
    const [from, to] = slotsOf(step);
    const cut = from + random.int(to - from + 1);
    const shape = random.int(3);
    if (shape === 0) this.choice.fill(1, from, cut);
    else if (shape === 1) this.choice.fill(1, cut, to);
    else this.#scatter(random, from, to, 0.5);
    if (step.kind === 'sectors' && step.lengthSlot >= 0) this.choice[step.lengthSlot] = random.int(3);
  }

  #scatter(random: Random, from: number, to: number, density: number): void {
    const threshold = density * 2 ** 32;
    for (let slot = from; slot < to; slot++) {
      const persists = random.uint32() < threshold;
      this.choice[slot] = !persists ? 0 : this.#radix[slot] === 3 ? 1 + random.int(2) : 1;
    }
  }
}

/** Makes the step of an operation, adds its slots to `radix` (values per slot) and does the operation to `live`. */
function stepOf(operation: Modification, radix: number[], shortest: number, live: ReplayedFile): Step {
  const slot = radix.length;
  if (operation.kind === 'truncate') {
    radix.push(2);
    const step: Step = { kind: 'truncate', slot, length: operation.length };
    live.content.fill(0, operation.length);
    live.length = operation.length;
    return step;
  }
  const { kind, offset } = operation;
  // A punch keeps the length, and beyond the end there is nothing to punch.
  const limit = kind === 'write' ? Infinity : live.length;
  const end = Math.max(
    offset,
    Math.min(limit, offset + (kind === 'write' ? operation.bytes.length : operation.length)),
  );
  if (kind === 'write') {
    live.content.set(operation.bytes, offset);
    live.length = Math.max(live.length, end);
  } else {
    live.content.fill(0, offset, end);
  }
  const start = Math.floor(offset / SECTOR_BYTES) * SECTOR_BYTES;
  const after = live.content.slice(start, end === offset ? start : roundUp(end));
  const sectorCount = after.length / SECTOR_BYTES;
  for (let sector = 0; sector < sectorCount; sector++) radix.push(2);
  const canExtend = kind === 'write' && end > shortest && end > offset;
  const lengthSlot = canExtend ? radix.length : -1;
  if (canExtend) radix.push(3);
  return { kind: 'sectors', slot, sectorCount, start, after, end, lengthSlot };
}

/** Slots [from, to) of a step. */
function slotsOf(step: Step): [number, number] {
  if (step.kind === 'truncate') return [step.slot, step.slot + 1];
  return [step.slot, step.slot + step.sectorCount + (step.lengthSlot < 0 ? 0 : 1)];
}

function roundUp(lengthBytes: number): number {
  return Math.ceil(lengthBytes / SECTOR_BYTES) * SECTOR_BYTES;
}
