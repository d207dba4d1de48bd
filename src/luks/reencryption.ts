/** What LUKS encrypts, taken to another place: decrypted for where it was, encrypted for where it goes. */
import { LUKS_SECTOR } from '../format/luks.js';
import type { SectorCipher } from './sector-cipher.js';

export class Reencryption {
  /** A hole reads as zeroes, which decrypt to something else at each place: it must be written out. */
  readonly keepsHoles = false;
  readonly #cipher: SectorCipher;

  constructor(cipher: SectorCipher) {
    this.#cipher = cipher;
  }

  /** In place. Both offsets are of the file: the number of a sector is its offset there. */
  transform(bytes: Uint8Array, from: number, to: number): void {
    this.#cipher.decrypt(bytes, from / LUKS_SECTOR);
    this.#cipher.encrypt(bytes, to / LUKS_SECTOR);
  }
}
