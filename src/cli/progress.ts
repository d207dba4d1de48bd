/** Shows on stderr what goes on: a spinner for a person, plain lines for a log, nothing for --quiet. */
import type { Stopped } from '../compactor/stop.js';
import type { Progress } from '../compactor/types.js';
import type { Mode, Request } from './arguments.js';
import { printable } from './printable.js';
import { humanDuration } from './units.js';

/** Of one image, from its beginning to its end. */
export interface ImageProgress {
  update(progress: Progress): void;
  /** Call it before the image's result is printed. */
  end(succeeded: boolean): void;
}

/** Of all images; several may be at work at the same time. */
export interface ProgressDisplay {
  begin(path: string): ImageProgress;
  /** Something asked to stop; what is at work goes on to its next barrier. */
  stopping(by: Stopped): void;
  /** Nothing is shown any more, at once. */
  close(): void;
}

export const DOING: Record<Mode, string> = {
  compact: 'compacting',
  erase: 'erasing',
  plan: 'planning',
  check: 'checking',
  repair: 'repairing',
};
export const STOPPING: Record<Stopped, string> = {
  interrupted: 'stopping at the next barrier',
  'out-of-time': 'time is up, stopping at the next barrier',
};

const SILENT: ProgressDisplay = {
  begin: () => ({ update: () => undefined, end: () => undefined }),
  stopping: () => undefined,
  close: () => undefined,
};

export async function createProgress(request: Request, stderr: NodeJS.WriteStream): Promise<ProgressDisplay> {
  if (request.quiet) return SILENT;
  if (canDraw(stderr)) return (await import('./spinner.js')).createSpinner(stderr, request);
  return request.json ? interruptsOnly(stderr) : createPlain(stderr, request.mode);
}

/**
 * A terminal that does not know its width says 0 columns, over which ora would never end clearing its line. In
 * continuous integration ora draws nothing either, and its text would stand there once more for each image.
 */
export function canDraw(
  stderr: { isTTY?: boolean; columns?: number },
  env: NodeJS.ProcessEnv = process.env,
): boolean {
  return stderr.isTTY === true && (stderr.columns ?? 0) > 0 && env.TERM !== 'dumb' && !('CI' in env);
}

/** Whoever interrupts waits for an answer; that the time is over is in the document. */
function interruptsOnly(stderr: NodeJS.WritableStream): ProgressDisplay {
  return { ...SILENT, stopping: (by) => by === 'interrupted' && sayStopping(stderr, by) };
}

function sayStopping(stderr: NodeJS.WritableStream, by: Stopped): void {
  stderr.write(`qcow-compact: ${STOPPING[by]}\n`);
}

/** A refusal comes while the metadata is read and must stay one line: until then only a long wait is worth a word. */
const SAY_AFTER_MS = 2000;

/** A line when the work on an image begins and one when it ends. */
export function createPlain(stderr: NodeJS.WritableStream, mode: Mode): ProgressDisplay {
  return { ...SILENT, begin, stopping: (by) => sayStopping(stderr, by) };

  function begin(path: string): ImageProgress {
    const name = printable(path);
    const startedAt = process.uptime();
    let isAnnounced = false;
    const longWait = setTimeout(announce, SAY_AFTER_MS).unref();

    function announce(): void {
      if (isAnnounced) return;
      isAnnounced = true;
      stderr.write(`${name}: ${DOING[mode]}\n`);
    }
    return {
      update({ phase }) {
        if (phase !== 'walk' && phase !== 'finish') announce();
      },
      end(succeeded) {
        clearTimeout(longWait);
        if (!isAnnounced) return;
        const took = humanDuration(process.uptime() - startedAt);
        stderr.write(`${name}: ${succeeded ? 'done' : 'stopped'} after ${took}\n`);
      },
    };
  }
}
