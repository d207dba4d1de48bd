/** The first SIGINT or SIGTERM asks the engine to stop at the next barrier; the second one ends the process. */

type StopSignal = 'SIGINT' | 'SIGTERM';

const STATUS: Record<StopSignal, number> = { SIGINT: 130, SIGTERM: 143 };

/** A second one still ends the process: whoever reads its output may have stopped reading. */
const ignoreOnce = (): void => undefined;

export interface Interrupts {
  readonly signal: AbortSignal;
  /** 130 or 143 once interrupted; 0 before. */
  status(): number;
  /** The work is over: a signal that comes too late must not take the result's exit status away. */
  stopWatching(): void;
}

/** `beforeEnd` tidies the terminal, at once. */
export function watchInterrupts(onFirst: () => void, beforeEnd: () => void): Interrupts {
  const controller = new AbortController();
  let status = 0;

  const listener = (signal: StopSignal): void => {
    if (status === 0) {
      status = STATUS[signal];
      onFirst();
      controller.abort();
      return;
    }
    beforeEnd();
    // By the signal itself, since process.exit would wait for a write or flush that is under way.
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
    // The first process of a container is not ended by a signal's default.
    process.exit(STATUS[signal]);
  };
  process.on('SIGINT', listener);
  process.on('SIGTERM', listener);

  return {
    signal: controller.signal,
    status: () => status,
    stopWatching() {
      for (const signal of ['SIGINT', 'SIGTERM'] as const) {
        process.off(signal, listener).off(signal, ignoreOnce);
        process.once(signal, ignoreOnce);
      }
    },
  };
}
