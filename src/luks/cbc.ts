/** CBC, begun anew in each sector: a block is combined with the encrypted one before it, the first with the sector's vector. */
import { createCipheriv } from 'node:crypto';
import { LUKS_SECTOR } from '../format/luks.js';
import { BLOCK, blockDecryption } from './blocks.js';
import type { Mode } from './sector-cipher.js';

export function cbc(key: Uint8Array): Mode {
  const decrypt = blockDecryption(key);
  // One chain through all sectors: a cipher for each would take several times as long.
  const chain = createCipheriv(`aes-${key.length * 8}-cbc`, key, new Uint8Array(BLOCK)).setAutoPadding(false);
  let last: Uint8Array = new Uint8Array(BLOCK);
  return {
    encrypt(bytes, vectors) {
      for (let at = 0, sector = 0; at < bytes.length; at += LUKS_SECTOR, sector++) {
        const part = bytes.subarray(at, at + LUKS_SECTOR);
        // The chain combines the first block with the last one before: that is taken out again here.
        combine(part, 0, last, 0, BLOCK);
        combine(part, 0, vectors, sector * BLOCK, BLOCK);
        const encrypted = chain.update(part);
        part.set(encrypted);
        last = encrypted.subarray(encrypted.length - BLOCK);
      }
    },
    decrypt(bytes, vectors) {
      const plain = decrypt(bytes);
      for (let at = 0, sector = 0; at < bytes.length; at += LUKS_SECTOR, sector++) {
        combine(plain, at, vectors, sector * BLOCK, BLOCK);
        combine(plain, at + BLOCK, bytes, at, Math.min(LUKS_SECTOR, bytes.length - at) - BLOCK);
      }
      bytes.set(plain);
    },
  };
}

function combine(target: Uint8Array, to: number, source: Uint8Array, from: number, length: number): void {
  for (let i = 0; i < length; i++) target[to + i]! ^= source[from + i]!;
}
