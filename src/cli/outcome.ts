/** What became of one image, whatever was asked for: the one shape that the report and the JSON are made from. */
import type {
  CheckResult,
  CompactResult,
  EraseResult,
  PlanResult,
  RepairResult,
} from '../compactor/types.js';
import type { Mode } from './arguments.js';
import type { Engine } from './engine.js';
import type { Stop } from './stops.js';

/** sysexits(3) EX_SOFTWARE. */
export const INTERNAL_STATUS = 70;

/** sysexits(3) EX_TEMPFAIL: the time of `--max-time` was over before all was done. */
export const OUT_OF_TIME_STATUS = 75;

/** Exit statuses of `qemu-img check`. */
export const CHECK_STATUS = { CLEAN: 0, INCOMPLETE: 1, CORRUPT: 2, LEAKS: 3 } as const;

export interface Failure {
  code: string;
  message: string;
  exitStatus: number;
}

export type Finished =
  | { mode: 'compact'; result: CompactResult }
  | { mode: 'erase'; result: EraseResult }
  | { mode: 'plan'; result: PlanResult }
  | { mode: 'check'; result: CheckResult }
  | { mode: 'repair'; result: RepairResult };

export interface Outcome {
  path: string;
  mode: Mode;
  /** `failed`: see `failure`. `not-started`: an interrupt came first. `no-time-left`: the end of the time did. */
  outcome:
    | 'compacted'
    | 'erased'
    | 'planned'
    | 'repaired'
    | 'clean'
    | 'leaks'
    | 'corrupt'
    | 'below-threshold'
    | 'interrupted'
    | 'out-of-time'
    | 'failed'
    | 'not-started'
    | 'no-time-left';
  exitStatus: number;
  failure: Failure | null;
  /** Absent where it failed, or was interrupted before there was anything to tell. */
  finished: Finished | null;
}

export function finishedOutcome(path: string, finished: Finished, interruptStatus: number): Outcome {
  const outcome = outcomeName(finished);
  return { path, mode: finished.mode, outcome, exitStatus: statusOf(), failure: null, finished };

  function statusOf(): number {
    if (outcome === 'interrupted') return interruptStatus;
    if (outcome === 'out-of-time') return OUT_OF_TIME_STATUS;
    if (outcome === 'corrupt') return CHECK_STATUS.CORRUPT;
    return outcome === 'leaks' ? CHECK_STATUS.LEAKS : 0;
  }
}

function outcomeName(finished: Finished): Outcome['outcome'] {
  switch (finished.mode) {
    case 'compact':
    case 'erase':
      return finished.result.outcome;
    case 'plan':
      return 'planned';
    case 'check':
      if (finished.result.corruptions > 0) return 'corrupt';
      return finished.result.leaks > 0 ? 'leaks' : 'clean';
    case 'repair': {
      const { outcome, leaks } = finished.result;
      const isDone = outcome === 'repaired' || outcome === 'clean';
      return isDone && leaks > 0 ? 'leaks' : outcome;
    }
  }
}

export function failedOutcome(path: string, mode: Mode, failure: Failure): Outcome {
  return { path, mode, outcome: 'failed', exitStatus: failure.exitStatus, failure, finished: null };
}

/** Stopped before there was a result, or before it was begun. */
export function stoppedOutcome(path: string, mode: Mode, { by, status }: Stop, isBegun: boolean): Outcome {
  const unbegun = by === 'interrupted' ? 'not-started' : 'no-time-left';
  return { path, mode, outcome: isBegun ? by : unbegun, exitStatus: status, failure: null, finished: null };
}

/** An expected failure carries its own status; anything else is a mistake in this program. */
export function describeFailure(error: unknown, mode: Mode, engine: Pick<Engine, 'QcowError'>): Failure {
  if (error instanceof engine.QcowError) {
    return { code: error.code, message: error.message, exitStatus: statusOf(error, mode) };
  }
  return internalFailure(error);
}

function statusOf({ code, exitStatus }: { code: string; exitStatus: number }, mode: Mode): number {
  if (mode !== 'check' && mode !== 'repair') return exitStatus;
  // The corruptions were found, and remain.
  return mode === 'repair' && code === 'CORRUPT' ? CHECK_STATUS.CORRUPT : CHECK_STATUS.INCOMPLETE;
}

export function internalFailure(error: unknown): Failure {
  const what = error instanceof Error ? error.message : String(error);
  return {
    code: 'INTERNAL',
    message: `internal error: ${what} (please report; --debug shows the trace)`,
    exitStatus: INTERNAL_STATUS,
  };
}

/**
 * Status of the whole command: that of the interrupt that ended it, else of the first image that failed, else that of
 * the time that was too short.
 */
export function overallStatus(outcomes: Outcome[]): number {
  const deciding =
    outcomes.find(isInterrupted) ??
    outcomes.find(({ exitStatus }) => exitStatus !== 0 && exitStatus !== OUT_OF_TIME_STATUS) ??
    outcomes.find(({ exitStatus }) => exitStatus !== 0);
  return deciding?.exitStatus ?? 0;
}

function isInterrupted(outcome: Outcome): boolean {
  return outcome.outcome === 'interrupted' || outcome.outcome === 'not-started';
}
