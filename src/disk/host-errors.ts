/** What the host answers to a live disk, in the words and codes of this library; `cause` is what it said. */
import { isHostFull } from '../system-error.js';
import { QcowError } from '../errors.js';

/** A failure of the host as a QcowError; everything else, programming errors included, as it is. */
export function asDiskError(error: unknown): unknown {
  if (error instanceof QcowError || !(error instanceof Error)) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (typeof code !== 'string' || syscall === undefined) return error;
  return isHostFull(error)
    ? new QcowError('NO_SPACE', `the host's file system is full (${code} on ${syscall})`, {
        hint: 'the image is valid; free some space, then write again',
        cause: error,
      })
    : new QcowError('IO', `the host failed to ${syscall} (${code})`, {
        hint: 'the image is valid; look at the host and its disk',
        cause: error,
      });
}
