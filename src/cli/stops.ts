/**
 * What asks the engine to stop at the next barrier: the first SIGINT or SIGTERM (the second one ends the process), for a
 * server that of its terminal too, and the end of `--max-time`. Whichever comes first gives the reason.
 */
import { type Stopped, stoppedBy } from '../compactor/stop.js';
import { OUT_OF_TIME_STATUS } from './outcome.js';

type StopSignal = 'SIGINT' | 'SIGTERM' | 'SIGHUP';

const STATUS: Record<StopSignal, number> = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };
const SIGNALS: readonly StopSignal[] = ['SIGINT', 'SIGTERM'];
/** Nobody may be there to start a server again whose terminal was closed: it ends as it should. */
export const SERVER_SIGNALS: readonly StopSignal[] = [...SIGNALS, 'SIGHUP'];

/** A second one still ends the process: whoever reads its output may have stopped reading. */
const ignoreOnce = (): void => undefined;

/** As the reason of `AbortSignal.timeout` is named. */
class OutOfTime extends Error {
  override readonly name = 'TimeoutError';
}

export interface Stop {
  by: Stopped;
  /** 130 or 143; 75 where the time was over. */
  status: number;
}

export interface Stops {
  readonly signal: AbortSignal;
  /** Null before anything asked to stop. */
  stop(): Stop | null;
  /** The work is over: a signal that comes too late must not take the result's exit status away. */
  stopWatching(): void;
}

export interface StopEvents {
  /** Called once. */
  onStop: (by: Stopped) => void;
  /** Tidies the terminal, at once. */
  beforeEnd: () => void;
}

/** `maxSeconds`: from now on. */
export function watchStops(
  maxSeconds: number | undefined,
  { onStop, beforeEnd }: StopEvents,
  signals = SIGNALS,
): Stops {
  const controller = new AbortController();
  const { signal } = controller;
  let interruptStatus = 0;
  signal.addEventListener('abort', () => onStop(stoppedBy(signal)));
  const timer =
    maxSeconds === undefined
      ? undefined
      : setTimeout(() => controller.abort(new OutOfTime()), maxSeconds * 1000).unref();

  const listener = (name: StopSignal): void => {
    if (interruptStatus === 0) {
      interruptStatus = STATUS[name];
      controller.abort();
      return;
    }
    beforeEnd();
    // By the signal itself, since process.exit would wait for a write or flush that is under way.
    process.removeAllListeners(name);
    process.kill(process.pid, name);
    // The first process of a container is not ended by a signal's default.
    process.exit(STATUS[name]);
  };
  for (const name of signals) process.on(name, listener);

  return {
    signal,
    stop() {
      if (!signal.aborted) return null;
      const by = stoppedBy(signal);
      return { by, status: by === 'interrupted' ? interruptStatus : OUT_OF_TIME_STATUS };
    },
    stopWatching() {
      clearTimeout(timer);
      for (const name of signals) {
        process.off(name, listener).off(name, ignoreOnce);
        process.once(name, ignoreOnce);
      }
    },
  };
}
