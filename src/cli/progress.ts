/** Shows on stderr what goes on: a spinner for a person, plain lines for a log, nothing for --quiet. */
import type { Progress } from '../compactor/types.js';
import type { Mode, Request } from './arguments.js';
import { printable } from './printable.js';
import { humanDuration } from './units.js';

export interface ProgressDisplay {
  start(path: string, mode: Mode): void;
  update(progress: Progress): void;
  /** An interrupt was heard; the run goes on to its next barrier. */
  stopping(): void;
  /** Ends what `start` began; call it before anything else is printed. */
  end(succeeded: boolean): void;
}

export const DOING: Record<Mode, string> = {
  compact: 'compacting',
  erase: 'erasing',
  plan: 'planning',
  check: 'checking',
  repair: 'repairing',
};
export const STOPPING = 'stopping at the next barrier';

const SILENT: ProgressDisplay = {
  start: () => undefined,
  update: () => undefined,
  stopping: () => undefined,
  end: () => undefined,
};

export async function createProgress(request: Request, stderr: NodeJS.WriteStream): Promise<ProgressDisplay> {
  if (request.quiet) return SILENT;
  if (canDraw(stderr)) return (await import('./spinner.js')).createSpinner(stderr);
  return request.json ? stoppingOnly(stderr) : createPlain(stderr);
}

/** A terminal that does not know its width says 0 columns, over which ora would never end clearing its line. */
export function canDraw(stderr: { isTTY?: boolean; columns?: number }): boolean {
  return stderr.isTTY === true && (stderr.columns ?? 0) > 0 && process.env.TERM !== 'dumb';
}

function stoppingOnly(stderr: NodeJS.WritableStream): ProgressDisplay {
  return { ...SILENT, stopping: () => void stderr.write(`qcow-compact: ${STOPPING}\n`) };
}

/** A refusal comes while the metadata is read and must stay one line: until then only a long wait is worth a word. */
const SAY_AFTER_MS = 2000;

/** A line when the work begins and one when it ends. */
export function createPlain(stderr: NodeJS.WritableStream): ProgressDisplay {
  let name = '';
  let doing = '';
  let startedAt = 0;
  let isAnnounced = false;
  let longWait: NodeJS.Timeout | undefined;

  function announce(): void {
    if (isAnnounced) return;
    isAnnounced = true;
    stderr.write(`${name}: ${doing}\n`);
  }
  return {
    ...stoppingOnly(stderr),
    start(path, mode) {
      name = printable(path);
      doing = DOING[mode];
      startedAt = process.uptime();
      isAnnounced = false;
      longWait = setTimeout(announce, SAY_AFTER_MS).unref();
    },
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
