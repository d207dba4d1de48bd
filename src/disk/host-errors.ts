/** What the host answers to a live disk. */
import { type HostErrorWords, asHostError } from '../host-error.js';

const WORDS: HostErrorWords = {
  object: '',
  full: 'the image is valid; free some space, then write again',
  failed: 'the image is valid; look at the host and its disk',
};

export function asDiskError(error: unknown): unknown {
  return asHostError(error, WORDS);
}
