/**
 * LUKS as test images have it: a header that SECRET opens, small since its key is split into two stripes only, and
 * data encrypted for their place. Written from the specification, by Node's own XTS; shares no code with the product.
 */
import { createCipheriv, createDecipheriv, createHash, pbkdf2Sync } from 'node:crypto';

export const SECRET = 'open sesame';
/** Of AES-256-XTS. */
export const MASTER_KEY = Uint8Array.from({ length: 64 }, (_, i) => (i * 37 + 11) % 256);
/** By which the oracle knows these headers. */
const UUID = 'made-for-tests';
const SALT = Buffer.alloc(32, 'salt');
const ITERATIONS = 2;
const STRIPES = 2;
const HASH = 'sha256';
const SECTOR = 512;
const MATERIAL_SECTOR = 2;
const EXTENSION = Buffer.from('0537be7700000010', 'hex');

export interface LuksOptions {
  /** Key slots in use, by number, and the secret of each; by default the first. */
  readonly slots?: Readonly<Record<number, string | Uint8Array>>;
  readonly key?: Uint8Array;
}

/** Length of the header with its key material. */
export const LUKS_BYTES = SECTOR * (MATERIAL_SECTOR + 1);

/** Of LUKS_BYTES, or longer where more slots are in use. */
export function luksHeader({ slots = { 0: SECRET }, key = MASTER_KEY }: LuksOptions = {}): Buffer {
  const last = Math.max(...Object.keys(slots).map(Number));
  const header = Buffer.alloc(SECTOR * (MATERIAL_SECTOR + last + 1));
  header.write('LUKS\xba\xbe\0\x01', 0, 'latin1');
  header.write('aes', 8);
  header.write('xts-plain64', 40);
  header.write(HASH, 72);
  header.writeUInt32BE(header.length / SECTOR, 104);
  header.writeUInt32BE(key.length, 108);
  header.set(pbkdf2Sync(key, SALT, ITERATIONS, 20, HASH), 112);
  header.set(SALT, 132);
  header.writeUInt32BE(ITERATIONS, 164);
  header.write(UUID, 168);
  for (let slot = 0; slot < 8; slot++) {
    const at = 208 + slot * 48;
    const secret = slots[slot];
    header.writeUInt32BE(secret === undefined ? 0x0000dead : 0x00ac71f3, at);
    header.writeUInt32BE(secret === undefined ? 0 : ITERATIONS, at + 4);
    header.set(SALT, at + 8);
    header.writeUInt32BE(MATERIAL_SECTOR + slot, at + 40);
    header.writeUInt32BE(STRIPES, at + 44);
    if (secret === undefined) continue;
    const slotKey = pbkdf2Sync(secret, SALT, ITERATIONS, key.length, HASH);
    header.set(encryptSectors(split(key), 0, slotKey), (MATERIAL_SECTOR + slot) * SECTOR);
  }
  return header;
}

/** Two stripes: anything, and what makes the key of it. */
function split(key: Uint8Array): Buffer {
  const first = Buffer.alloc(key.length, 'stripe');
  const diffused = Buffer.concat(
    [0, 1].map((part) => {
      const number = Buffer.from([0, 0, 0, part]);
      return createHash(HASH)
        .update(number)
        .update(first.subarray(part * 32, part * 32 + 32))
        .digest();
    }),
  );
  return Buffer.concat([first, diffused.map((byte, i) => byte ^ key[i]!)]);
}

/** Whether the region that begins at `offset` is such a header, so that MASTER_KEY is its key. */
export function isKnownHeader(image: Uint8Array, offset: number): boolean {
  const header = Buffer.from(
    image.buffer,
    image.byteOffset + offset,
    Math.max(0, Math.min(208, image.length - offset)),
  );
  return (
    header.subarray(0, 4).toString('latin1') === 'LUKS' &&
    header.subarray(168).toString('latin1').startsWith(UUID)
  );
}

/** The option that opens an image of the builder, where it has such a header; nothing else needs one. */
export function secretOf(image: Uint8Array): { secret?: string } {
  const bytes = Buffer.from(image.buffer, image.byteOffset, image.length);
  const extension = bytes.subarray(0, 4096).indexOf(EXTENSION);
  if (extension < 0) return {};
  return isKnownHeader(bytes, Number(bytes.readBigUInt64BE(extension + 8))) ? { secret: SECRET } : {};
}

/** `offset`: where the first sector lies in the file. */
export function encryptSectors(bytes: Uint8Array, offset: number, key: Uint8Array = MASTER_KEY): Buffer {
  return bySector(bytes, offset, (sector, vector) =>
    createCipheriv('aes-256-xts', key, vector).update(sector),
  );
}

export function decryptSectors(bytes: Uint8Array, offset: number, key: Uint8Array = MASTER_KEY): Buffer {
  return bySector(bytes, offset, (sector, vector) =>
    createDecipheriv('aes-256-xts', key, vector).update(sector),
  );
}

function bySector(
  bytes: Uint8Array,
  offset: number,
  work: (sector: Uint8Array, vector: Buffer) => Buffer,
): Buffer {
  const result = Buffer.alloc(bytes.length);
  for (let at = 0; at < bytes.length; at += SECTOR) {
    const vector = Buffer.alloc(16);
    vector.writeBigUInt64LE(BigInt((offset + at) / SECTOR));
    result.set(work(bytes.subarray(at, at + SECTOR), vector), at);
  }
  return result;
}
