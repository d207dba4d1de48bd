/** The secret that opens encrypted images: from a file or the environment, never from the command line, which others see. */
import fs from 'node:fs';
import { systemReason } from '../device/system-error.js';
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
  let length = 0;
  try {
    const fd = fs.openSync(file, 'r');
    try {
      for (let read = 1; read > 0 && length < buffer.length; length += read)
        read = fs.readSync(fd, buffer, length, buffer.length - length, null);
    } finally {
      fs.closeSync(fd);
    }
  } catch (error) {
    throw new UsageError(`cannot read the secret file \`${file}\`: ${systemReason(error)}`);
  }
  const secret = Uint8Array.from(buffer.subarray(0, length));
  buffer.fill(0);
  if (length > MOST_BYTES)
    throw new UsageError(
      `the secret file \`${file}\` has more than ${MOST_BYTES} bytes: is it the right one?`,
    );
  return secret;
}
