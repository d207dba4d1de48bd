/** AES on many blocks at once, each by itself: what the modes for sectors are made of, since one call costs as much as 8 KiB. */
import { createCipheriv, createDecipheriv } from 'node:crypto';

/** Bytes of a block of AES. */
export const BLOCK = 16;

/** Whole blocks in, as many out. */
export type Blocks = (bytes: Uint8Array) => Uint8Array;

export function blockEncryption(key: Uint8Array): Blocks {
  const cipher = createCipheriv(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
  return (bytes) => cipher.update(bytes);
}

export function blockDecryption(key: Uint8Array): Blocks {
  const cipher = createDecipheriv(`aes-${key.length * 8}-ecb`, key, null).setAutoPadding(false);
  return (bytes) => cipher.update(bytes);
}
