/** Runs a request over its images, one after the other, and reports. Errors are caught here and nowhere else. */
import { inspect } from 'node:util';
import type { CommonOptions } from '../compactor/types.js';
import type { Request } from './arguments.js';
import { colorsFor, type Colors } from './colors.js';
import { ENGINE, type Engine } from './engine.js';
import { watchInterrupts, type Interrupts } from './interrupts.js';
import { resultDocument } from './json.js';
import {
  describeFailure,
  failedOutcome,
  finishedOutcome,
  internalFailure,
  interruptedOutcome,
  overallStatus,
  type Finished,
  type Outcome,
} from './outcome.js';
import { printable } from './printable.js';
import { createProgress, type ProgressDisplay } from './progress.js';
import { reportLines } from './report.js';

interface Session {
  request: Request;
  secret: Uint8Array | undefined;
  engine: Engine;
  progress: ProgressDisplay;
  interrupts: Interrupts;
  stdoutColors: Colors;
  stderrColors: Colors;
}

/** The exit status of the command. */
export async function run(request: Request, secret?: Uint8Array): Promise<number> {
  const progress = await createProgress(request, process.stderr);
  const interrupts = watchInterrupts(
    () => progress.stopping(),
    () => progress.end(false),
  );
  try {
    const session: Session = {
      request,
      secret,
      engine: ENGINE,
      progress,
      interrupts,
      stdoutColors: await colorsFor(process.stdout),
      stderrColors: await colorsFor(process.stderr),
    };
    return await runImages(session);
  } catch (error) {
    const { message, exitStatus } = internalFailure(error);
    process.stderr.write(`qcow-compact: ${printable(message)}\n`);
    if (request.debug) process.stderr.write(`${inspect(error)}\n`);
    return exitStatus;
  } finally {
    interrupts.stopWatching();
  }
}

async function runImages(session: Session): Promise<number> {
  const { request, interrupts } = session;
  const outcomes: Outcome[] = [];
  for (const path of request.paths) {
    if (interrupts.signal.aborted) {
      outcomes.push(interruptedOutcome(path, request.mode, 'not-started', interrupts.status()));
      continue;
    }
    const outcome = await runImage(path, session);
    outcomes.push(outcome);
    printOutcome(outcome, session);
  }
  const exitStatus = overallStatus(outcomes);
  if (request.json) process.stdout.write(resultDocument(outcomes, exitStatus));
  return exitStatus;
}

async function runImage(path: string, session: Session): Promise<Outcome> {
  const { request, engine, progress, interrupts, stderrColors } = session;
  progress.start(path, request.mode);
  try {
    const finished = await callEngine(path, session);
    const outcome = finishedOutcome(path, finished, interrupts.status());
    progress.end(outcome.outcome !== 'interrupted');
    return outcome;
  } catch (error) {
    progress.end(false);
    if (isAbort(error, interrupts.signal)) {
      return interruptedOutcome(path, request.mode, 'interrupted', interrupts.status());
    }
    const failure = describeFailure(error, request.mode, engine);
    process.stderr.write(
      `${stderrColors.bad('qcow-compact:')} ${printable(path)}: ${printable(failure.message)}\n`,
    );
    if (request.debug) process.stderr.write(`${inspect(error)}\n`);
    return failedOutcome(path, request.mode, failure);
  }
}

/** The engine stopped before there was a result. */
function isAbort(error: unknown, signal: AbortSignal): boolean {
  return (
    signal.aborted && (error === signal.reason || (error instanceof Error && error.name === 'AbortError'))
  );
}

async function callEngine(path: string, session: Session): Promise<Finished> {
  const { request, secret, engine, progress, interrupts } = session;
  const { mode, keepErased, punch, dropPreallocation, repair } = request;
  const common: CommonOptions = {
    signal: interrupts.signal,
    onProgress: (event) => progress.update(event),
  };
  // Nothing is decrypted by the other modes.
  const unlocked = { ...common, ...(secret && { secret }) };
  switch (mode) {
    case 'compact':
      return {
        mode,
        result: await engine.compact(path, { ...unlocked, keepErased, punch, dropPreallocation, repair }),
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
function printOutcome(outcome: Outcome, session: Session): void {
  const { request, stdoutColors } = session;
  if (request.quiet || request.json) return;
  const { finished } = outcome;
  if (finished !== null) {
    for (const notice of finished.result.notices) {
      process.stderr.write(`${printable(outcome.path)}: ${printable(notice)}\n`);
    }
    process.stdout.write(`${reportLines(outcome.path, finished, stdoutColors)}\n`);
  } else if (outcome.outcome === 'interrupted') {
    process.stdout.write(`${printable(outcome.path)}: interrupted before anything was changed\n`);
  }
}
