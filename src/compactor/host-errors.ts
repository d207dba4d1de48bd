/** What the host answers to a run over an image. */
import { type HostErrorWords, asHostError } from '../host-error.js';

const WORDS: HostErrorWords = {
  object: ' the image',
  full: 'the image is as valid as before and keeps what was gained; free some space and run it again',
  failed: 'the image is as valid as before; look at the host and its disk, then run it again',
};

export function translateHostError(error: unknown): unknown {
  return asHostError(error, WORDS);
}
