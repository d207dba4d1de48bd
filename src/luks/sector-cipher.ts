/** Encrypts and decrypts sectors of 512 bytes in place, each by itself and for its place. */
import { LUKS_SECTOR } from '../format/luks.js';
import { BLOCK } from './blocks.js';
import { cbc } from './cbc.js';
import type { CipherSpec } from './cipher-spec.js';
import { type Vectors, sectorVectors } from './vectors.js';
import { xts } from './xts.js';

/** Whole blocks of sectors that follow each other; only the last sector may be shorter. `vectors`: one block for each. */
export interface Mode {
  encrypt(bytes: Uint8Array, vectors: Uint8Array): void;
  decrypt(bytes: Uint8Array, vectors: Uint8Array): void;
}

/** What the processor's cache holds along with its copies: larger pieces take a third longer, as 16 KiB do. */
const PIECE_BYTES = 64 << 10;

export class SectorCipher {
  readonly #mode: Mode;
  readonly #vectors: Vectors;

  /** `key` may be overwritten afterwards. */
  constructor(spec: CipherSpec, key: Uint8Array) {
    if (key.length !== spec.keyBytes) throw new Error('the key has another length than its cipher takes');
    this.#mode = spec.mode === 'xts' ? xts(key) : cbc(key);
    this.#vectors = sectorVectors(spec, key);
  }

  /** `firstSector`: number of the first one. */
  encrypt(bytes: Uint8Array, firstSector: number): void {
    this.#pieces(bytes, firstSector, (piece, vectors) => this.#mode.encrypt(piece, vectors));
  }

  decrypt(bytes: Uint8Array, firstSector: number): void {
    this.#pieces(bytes, firstSector, (piece, vectors) => this.#mode.decrypt(piece, vectors));
  }

  #pieces(bytes: Uint8Array, firstSector: number, work: Mode['encrypt']): void {
    if (bytes.length % BLOCK !== 0) throw new Error('half a block cannot be encrypted');
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, at + PIECE_BYTES);
      const sectors = Math.ceil(piece.length / LUKS_SECTOR);
      work(piece, this.#vectors(firstSector + at / LUKS_SECTOR, sectors));
    }
  }
}
