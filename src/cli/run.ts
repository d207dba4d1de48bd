/** Runs a request over its images, several at a time, and answers with the status. */
import { availableParallelism } from 'node:os';
import { inspect } from 'node:util';
import { RateLimiter } from '../device/rate-limiter.js';
import type { Request } from './arguments.js';
import { colorsFor } from './colors.js';
import { ENGINE } from './engine.js';
import { internalFailure, overallStatus, stoppedOutcome, type Outcome } from './outcome.js';
import { resultDocument } from './json.js';
import { printable } from './printable.js';
import { createProgress } from './progress.js';
import { printOutcome, runImage, type Session } from './run-image.js';
import { type Job, type Limits, runJobs } from './schedule.js';
import { watchStops } from './stops.js';

/** What all images at work may take of memory together, as far as it can be told before. */
const MEMORY_BYTES = 1 << 30;

/** The exit status of the command. */
export async function run(request: Request, secret?: Uint8Array): Promise<number> {
  const progress = await createProgress(request, process.stderr);
  const stops = watchStops(request.maxTime, {
    onStop: (by) => progress.stopping(by),
    beforeEnd: () => progress.close(),
  });
  try {
    const { jobs, limits } = await planJobs(request);
    const session: Session = {
      request,
      secret,
      engine: ENGINE,
      progress,
      stops,
      limiter: limiterFor(request, Math.min(limits.jobs, jobs.length)),
      stdoutColors: await colorsFor(process.stdout),
      stderrColors: await colorsFor(process.stderr),
    };
    return await runImages(session, jobs, limits);
  } catch (error) {
    progress.close();
    const { message, exitStatus } = internalFailure(error);
    process.stderr.write(`qcow-compact: ${printable(message)}\n`);
    if (request.debug) process.stderr.write(`${inspect(error)}\n`);
    return exitStatus;
  } finally {
    stops.stopWatching();
  }
}

function limiterFor({ limitRate }: Request, sharedBy: number): RateLimiter | undefined {
  return limitRate === undefined ? undefined : new RateLimiter(limitRate, { sharedBy });
}

/** Without `--jobs` one image at a time on each file system, as long as there are processors for them. */
async function planJobs({ paths, jobs: wanted }: Request): Promise<{ jobs: readonly Job[]; limits: Limits }> {
  const limits = { jobs: wanted ?? 1, perFileSystem: wanted ?? 1, memoryBytes: MEMORY_BYTES };
  // One alone waits for nothing; what follows would only take time.
  if (paths.length === 1) return { jobs: [{ file: '', fileSystem: '', memoryBytes: 0 }], limits };
  const { countFileSystems, estimateMemory, lookAt } = await import('./image-files.js');
  const files = await lookAt(paths);
  if (wanted === undefined)
    limits.jobs = Math.max(1, Math.min(countFileSystems(files), availableParallelism()));
  if (limits.jobs > 1) await estimateMemory(files);
  return { jobs: files, limits };
}

async function runImages(session: Session, jobs: readonly Job[], limits: Limits): Promise<number> {
  const { request, stops } = session;
  const { paths, mode } = request;
  const outcomes: (Outcome | undefined)[] = paths.map(() => undefined);
  await runJobs(
    jobs,
    limits,
    () => stops.signal.aborted,
    async (index) => {
      outcomes[index] = await runImage(paths[index]!, session);
    },
  );
  const all = paths.map((path, index) => outcomes[index] ?? unbegun(path));
  const exitStatus = overallStatus(all);
  if (request.json) process.stdout.write(resultDocument(all, exitStatus));
  return exitStatus;

  function unbegun(path: string): Outcome {
    const stop = stops.stop();
    if (stop === null) throw new Error('an image was left out');
    const outcome = stoppedOutcome(path, mode, stop, false);
    printOutcome(outcome, session);
    return outcome;
  }
}
