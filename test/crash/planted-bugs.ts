/**
 * Logs as an engine with a certain bug would have written them, made from the log of the real one. A run without
 * new or released refcount blocks is a regular row of windows: each round copies (in the window in which the round
 * before lowers its counts and truncates), then updates references; a last window lowers and truncates.
 */
import type { Modification, Operation } from '../../src/device/recording-device.js';
import { ReplayedFile, WindowPlan } from '../support/crash-window.js';
import { layoutOf, refcountTable } from './kinds.js';

export interface Round {
  /** Lowered counts and the truncation of the round before; in the first round counts that were too high. */
  shorten: Modification[];
  /** Raised counts of the destinations. */
  raise: Modification[];
  copy: Modification[];
  /** The header's write among them is the last. */
  update: Modification[];
}

/** The rounds, and as the last one a round that only shortens; null where the run has other windows too. */
export function roundsOf(initial: Uint8Array, log: readonly Operation[], roundCount: number): Round[] | null {
  const windows: Modification[][] = [[]];
  // The barrier before the first change.
  for (const operation of log[0]?.kind === 'flush' ? log.slice(1) : log) {
    if (operation.kind === 'flush') windows.push([]);
    else windows.at(-1)!.push(operation);
  }
  if (windows.pop()!.length > 0 || windows.length !== 2 * roundCount + 1) return null;
  const file = new ReplayedFile(initial, log);
  const rounds: Round[] = [];
  for (let index = 0; index < windows.length; index += 2) {
    const isCount = countWrites(file.view());
    const window = windows[index]!;
    const update = windows[index + 1] ?? [];
    const lastRound = index + 1 === windows.length;
    const firstCopy = window.findLastIndex((operation) => isCount(operation)) + 1;
    const truncated = window.findIndex(({ kind }) => kind === 'truncate') + 1;
    const lowered = lastRound ? window.length : truncated;
    rounds.push({
      shorten: window.slice(0, lowered),
      raise: window.slice(lowered, Math.max(lowered, firstCopy)),
      copy: window.slice(Math.max(lowered, firstCopy)),
      update,
    });
    // Making the plan of a window takes the file past it.
    void new WindowPlan(window, file);
    void new WindowPlan(update, file);
  }
  return rounds;
}

function countWrites(bytes: Uint8Array): (operation: Modification) => boolean {
  const { clusterSize } = layoutOf(bytes);
  const blocks = new Set(refcountTable(bytes).filter((offset) => offset > 0));
  return (operation) =>
    operation.kind === 'write' && blocks.has(Math.floor(operation.offset / clusterSize) * clusterSize);
}

const FLUSH: Operation = { kind: 'flush' };
export const writesHeader = (operation: Modification) => operation.kind === 'write' && operation.offset === 0;
export const not = (test: (operation: Modification) => boolean) => (operation: Modification) =>
  !test(operation);
const truncates = ({ kind }: Modification) => kind === 'truncate';

/** The log of rounds as the engine writes them. */
export function healthy(rounds: readonly Round[]): Operation[] {
  return rounds.flatMap(({ shorten, raise, copy, update }, index) =>
    index === rounds.length - 1
      ? [...shorten, FLUSH]
      : [...shorten, ...raise, ...copy, FLUSH, ...update, FLUSH],
  );
}

/** Applies `change` to each pair of a round and the one after it. */
export function pairwise(rounds: readonly Round[], change: (round: Round, next: Round) => void): Operation[] {
  const copies = rounds.map((round) => ({ ...round }));
  for (let index = 0; index + 1 < copies.length; index++) change(copies[index]!, copies[index + 1]!);
  return healthy(copies);
}

export const PLANTED: Record<string, (rounds: readonly Round[]) => Operation[]> = {
  'barrier A is dropped': (rounds) =>
    rounds.flatMap(({ shorten, raise, copy, update }) => [...shorten, ...raise, ...copy, ...update, FLUSH]),

  'barrier B is dropped': (rounds) =>
    rounds.flatMap(({ shorten, raise, copy, update }) => [...shorten, ...raise, ...copy, FLUSH, ...update]),

  'refcounts are raised late': (rounds) =>
    pairwise(rounds, (round, next) => {
      next.shorten = [...round.raise, ...next.shorten];
      round.raise = [];
    }),

  'pointers are written before the copies': (rounds) =>
    pairwise(rounds, (round) => {
      [round.copy, round.update] = [round.update, round.copy];
    }),

  'the file is truncated before the references are updated': (rounds) =>
    pairwise(rounds, (round, next) => {
      round.copy = [...round.copy, ...next.shorten.filter(truncates)];
      next.shorten = next.shorten.filter(not(truncates));
    }),

  'the file is truncated before barrier B': (rounds) =>
    pairwise(rounds, (round, next) => {
      round.update = [...round.update, ...next.shorten.filter(truncates)];
      next.shorten = next.shorten.filter(not(truncates));
    }),

  'refcounts are lowered before barrier B': (rounds) =>
    pairwise(rounds, (round, next) => {
      round.update = [...round.update, ...next.shorten.filter(not(truncates))];
      next.shorten = next.shorten.filter(truncates);
    }),

  'the header is switched before its table is copied': (rounds) =>
    pairwise(rounds, (round) => {
      round.copy = [...round.update.filter(writesHeader), ...round.copy];
      round.update = round.update.filter(not(writesHeader));
    }),
};
