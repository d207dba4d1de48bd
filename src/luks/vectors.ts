/** Initial vectors of sectors: what makes equal sectors look different at different places. */
import { createHash } from 'node:crypto';
import { TWO_32, viewOf } from '../format/words.js';
import { BLOCK, blockEncryption } from './blocks.js';
import type { CipherSpec } from './cipher-spec.js';

/** One block for each of `count` sectors from number `first` on. */
export type Vectors = (first: number, count: number) => Uint8Array;

export function sectorVectors({ vectors, vectorHash }: CipherSpec, key: Uint8Array): Vectors {
  if (vectors === 'plain') return (first, count) => numbers(first, count, 1);
  if (vectors === 'plain64') return (first, count) => numbers(first, count, 2);
  const hash = createHash(vectorHash).update(key).digest();
  const encrypt = blockEncryption(hash);
  hash.fill(0);
  return (first, count) => encrypt(numbers(first, count, 2));
}

/** Little-endian numbers of so many 32-bit words. */
function numbers(first: number, count: number, words: 1 | 2): Uint8Array {
  const bytes = new Uint8Array(count * BLOCK);
  const view = viewOf(bytes);
  for (let i = 0; i < count; i++) {
    view.setUint32(i * BLOCK, (first + i) % TWO_32, true);
    if (words === 2) view.setUint32(i * BLOCK + 4, Math.floor((first + i) / TWO_32), true);
  }
  return bytes;
}
