/** Why a run was stopped: somebody interrupted it, or its time was over. */

export type Stopped = 'interrupted' | 'out-of-time';

export function isStopped(signal: AbortSignal | undefined): boolean {
  return signal?.aborted ?? false;
}

/** By the reason of the signal: `AbortSignal.timeout` and its like give a `TimeoutError`. */
export function stoppedBy(signal: AbortSignal | undefined): Stopped {
  return isTimeout(signal?.reason) ? 'out-of-time' : 'interrupted';
}

function isTimeout(reason: unknown): boolean {
  return reason instanceof Error && reason.name === 'TimeoutError';
}
