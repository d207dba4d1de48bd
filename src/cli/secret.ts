/** The secret that opens encrypted images: from a file or the environment, never from the command line, which others see. */
import fs from 'node:fs';
import { systemReason } from '../system-error.js';
import { UsageError } from './arguments.js';

const VARIABLE = 'QCOW_SECRET';
/** No secret is longer; a device could go on for ever. */
const MOST_BYTES = 1 << 20;

/**
 * The bytes of the file as they are, a newline at the end included, as QEMU takes them; else those of QCOW_SECRET,
 * which counts as not given where it is empty. Throws UsageError.
 */
export function readSecret(
  file: string | undefined,
  environment: Record<string, string | undefined>,
): Uint8Array | undefined {
  const fromEnvironment = environment[VARIABLE];
  // Nothing that this process starts or reports needs to see it.
  delete environment[VARIABLE];
  if (file !== undefined) return readFile(file);
  return fromEnvironment === undefined || fromEnvironment === '' ? undefined : Buffer.from(fromEnvironment);
}

/** A pipe serves as well: `--secret-file <(pass show vm)`. */
function readFile(file: string): Uint8Array {
  const buffer = Buffer.alloc(MOST_BYTES + 1);
  try {
    const length = fill(buffer, file);
    if (length <= MOST_BYTES) return Uint8Array.from(buffer.subarray(0, length));
  } catch (error) {
    throw new UsageError(`cannot read the secret file \`${file}\`: ${systemReason(error)}`);
  } finally {
    buffer.fill(0);
  }
  throw new UsageError(`the secret file \`${file}\` has more than ${MOST_BYTES} bytes: is it the right one?`);
}

/** Reads until the file or the buffer ends; answers the number of bytes. */
function fill(buffer: Uint8Array, file: string): number {
  const fd = fs.openSync(file, 'r');
  try {
    let length = 0;
    for (let read = 1; read > 0 && length < buffer.length; length += read)
      read = fs.readSync(fd, buffer, length, buffer.length - length, null);
    return length;
  } finally {
    fs.closeSync(fd);
  }
}
