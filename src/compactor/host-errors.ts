/** What the host answers, in the words and codes of this tool. */
import { isHostFull } from '../system-error.js';
import { QcowError } from '../errors.js';

/** A failure of the host as a QcowError; everything else, programming errors included, as it is. */
export function translateHostError(error: unknown): unknown {
  if (error instanceof QcowError || !(error instanceof Error)) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (typeof code !== 'string' || syscall === undefined) return error;
  if (isHostFull(error)) {
    return new QcowError('NO_SPACE', `the host's file system is full (${code} on ${syscall})`, {
      hint: 'the image is as valid as before and keeps what was gained; free some space and run it again',
      cause: error,
    });
  }
  return new QcowError('IO', `the host failed to ${syscall} the image (${code})`, {
    hint: 'the image is as valid as before; look at the host and its disk, then run it again',
    cause: error,
  });
}
