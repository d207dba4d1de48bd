/** The key material of a key slot: the key split into stripes, of which each is needed (LUKS specification, "AF-Splitter"). */
import { createHash } from 'node:crypto';
import { viewOf } from '../format/words.js';

/** The key of `keyBytes` bytes that `stripes` stripes hold; `material` stays as it is. */
export function mergeStripes(
  material: Uint8Array,
  keyBytes: number,
  stripes: number,
  hash: string,
): Uint8Array {
  const digestBytes = createHash(hash).digest().length;
  const key = new Uint8Array(keyBytes);
  for (let stripe = 0; stripe < stripes; stripe++) {
    if (stripe > 0) diffuse(key, hash, digestBytes);
    const from = stripe * keyBytes;
    for (let i = 0; i < keyBytes; i++) key[i]! ^= material[from + i]!;
  }
  return key;
}

/** Lets every bit of a part change each bit of it: the digest of its number and its content takes its place. */
function diffuse(bytes: Uint8Array, hash: string, digestBytes: number): void {
  const number = new Uint8Array(4);
  for (let part = 0; part * digestBytes < bytes.length; part++) {
    const content = bytes.subarray(part * digestBytes, (part + 1) * digestBytes);
    viewOf(number).setUint32(0, part);
    const digest = createHash(hash).update(number).update(content).digest();
    content.set(digest.subarray(0, content.length));
    digest.fill(0);
  }
}
