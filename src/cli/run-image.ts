/** One image of a request: the call of the engine, what became of it, and the report. Errors are caught here. */
import { inspect } from 'node:util';
import type { CommonOptions } from '../compactor/types.js';
import type { RateLimiter } from '../device/rate-limiter.js';
import type { Request } from './arguments.js';
import type { Colors } from './colors.js';
import type { Engine } from './engine.js';
import {
  describeFailure,
  failedOutcome,
  finishedOutcome,
  stoppedOutcome,
  type Finished,
  type Outcome,
} from './outcome.js';
import { printable } from './printable.js';
import type { ProgressDisplay } from './progress.js';
import { reportLines } from './report.js';
import type { Stops } from './stops.js';

export interface Session {
  request: Request;
  secret: Uint8Array | undefined;
  engine: Engine;
  progress: ProgressDisplay;
  stops: Stops;
  /** Shared by all images. */
  limiter: RateLimiter | undefined;
  stdoutColors: Colors;
  stderrColors: Colors;
}

/** Prints what became of the image, whole and at once: others may be at work beside it. */
export async function runImage(path: string, session: Session): Promise<Outcome> {
  const { request, engine, stops } = session;
  const progress = session.progress.begin(path);
  try {
    const finished = await callEngine(path, session, (event) => progress.update(event));
    const outcome = finishedOutcome(path, finished, stops.stop()?.status ?? 0);
    progress.end(outcome.outcome !== 'interrupted' && outcome.outcome !== 'out-of-time');
    printOutcome(outcome, session);
    return outcome;
  } catch (error) {
    progress.end(false);
    const stop = stops.stop();
    if (stop !== null && isAbort(error, stops.signal)) {
      const outcome = stoppedOutcome(path, request.mode, stop, true);
      printOutcome(outcome, session);
      return outcome;
    }
    const failure = describeFailure(error, request.mode, engine);
    process.stderr.write(
      `${session.stderrColors.bad('qcow-compact:')} ${printable(path)}: ${printable(failure.message)}\n`,
    );
    if (request.debug) process.stderr.write(`${inspect(error)}\n`);
    return failedOutcome(path, request.mode, failure);
  }
}

/** The engine stopped before there was a result. */
function isAbort(error: unknown, signal: AbortSignal): boolean {
  return error === signal.reason || (error instanceof Error && error.name === 'AbortError');
}

async function callEngine(
  path: string,
  { request, secret, engine, stops, limiter }: Session,
  onProgress: NonNullable<CommonOptions['onProgress']>,
): Promise<Finished> {
  const { mode, keepErased, punch, dropPreallocation, repair, threshold } = request;
  const common: CommonOptions = { signal: stops.signal, onProgress, ...(limiter && { limiter }) };
  // Nothing is decrypted by the other modes.
  const unlocked = { ...common, ...(secret && { secret }) };
  switch (mode) {
    case 'compact':
      return {
        mode,
        result: await engine.compact(path, {
          ...unlocked,
          ...{ keepErased, punch, dropPreallocation, repair, threshold },
        }),
      };
    case 'erase':
      return { mode, result: await engine.eraseJunk(path, { ...common, keepErased, punch }) };
    case 'plan':
      return { mode, result: await engine.plan(path, { ...unlocked, keepErased, punch, dropPreallocation }) };
    case 'check':
      return { mode, result: await engine.check(path, common) };
    case 'repair':
      return { mode, result: await engine.repair(path, { ...common, what: repair }) };
  }
}

/** Notices on stderr, then the result on stdout. A failure has been printed already. */
export function printOutcome({ path, outcome, finished }: Outcome, { request, stdoutColors }: Session): void {
  if (request.quiet || request.json) return;
  if (finished !== null) {
    for (const notice of finished.result.notices) {
      process.stderr.write(`${printable(path)}: ${printable(notice)}\n`);
    }
    process.stdout.write(`${reportLines(path, finished, stdoutColors)}\n`);
    return;
  }
  const line = WITHOUT_RESULT[outcome];
  if (line !== undefined) process.stdout.write(`${printable(path)}: ${line}\n`);
}

const WITHOUT_RESULT: Partial<Record<Outcome['outcome'], string>> = {
  interrupted: 'interrupted before anything was changed',
  'out-of-time': 'out of time before anything was changed',
  'no-time-left': 'not begun, the time was over',
};
