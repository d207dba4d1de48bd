/** What the host answers, in the words and codes of this project. */
import { QcowError } from './errors.js';
import { isHostFull } from './system-error.js';

/** What a user is told besides. */
export interface HostErrorWords {
  /** What the host failed to work on: ` the image`, or nothing. */
  object: string;
  /** Hints: what is kept and what to do, where the host is full and where it failed otherwise. */
  full: string;
  failed: string;
}

/** A failure of the host as a QcowError; everything else, programming errors included, as it is. */
export function asHostError(error: unknown, { object, full, failed }: HostErrorWords): unknown {
  if (error instanceof QcowError || !(error instanceof Error)) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (typeof code !== 'string' || syscall === undefined) return error;
  return isHostFull(error)
    ? new QcowError('NO_SPACE', `the host's file system is full (${code} on ${syscall})`, {
        hint: full,
        cause: error,
      })
    : new QcowError('IO', `the host failed to ${syscall}${object} (${code})`, { hint: failed, cause: error });
}
