/** Failures as the protocol has them. */
import { errorCode, isHostFull } from '../system-error.js';
import { NbdError } from './protocol.js';

/** The client broke the protocol in a way that leaves no place to go on from. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/** What a client is told of a failure of the disk. */
export function nbdErrorOf(error: unknown): number {
  const code = errorCode(error);
  if (code === 'NO_SPACE' || isHostFull(error)) return NbdError.ENOSPC;
  return NbdError.EIO;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
