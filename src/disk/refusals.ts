/** What can be compacted, but not read or written by a live disk; named, as everything that is refused. */
import { QcowError } from '../errors.js';
import { ENCRYPTION, hasDataFile } from '../format/header.js';
import type { Image } from '../image/image.js';

function unsupported(what: string, hint: string): QcowError {
  return new QcowError('UNSUPPORTED', `${what}, which a live disk does not handle`, { hint });
}

const UNTOUCHED = 'the image was left untouched';

/** Throws unless the guest's data can be read. */
export function requireReadable({ header }: Image): void {
  if (header.encryption !== ENCRYPTION.none) {
    const method = header.encryption === ENCRYPTION.luks ? 'LUKS' : 'legacy AES';
    throw unsupported(`the image is encrypted (${method})`, UNTOUCHED);
  }
  if (hasDataFile(header)) throw unsupported('the image keeps its data in an external data file', UNTOUCHED);
}

/** Throws unless they can be written, too. */
export function requireWritable({ bitmaps }: Image): void {
  // What the guest writes would be missing in them, and in the next incremental backup.
  if (bitmaps?.entries.some(({ isRecording }) => isRecording) !== true) return;
  throw unsupported(
    'the image has persistent bitmaps that record writes',
    `disable or remove them (\`qemu-img bitmap --disable\`), or open it read-only; ${UNTOUCHED}`,
  );
}
