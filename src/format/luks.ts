/**
 * The LUKS header, version 1 (LUKS On-Disk Format Specification 1.2.3, "The partition header"). Pure: bytes in, fields
 * out. Every field is held against the region of the file that the header extension gives it, before it is used.
 */
import { QcowError } from '../errors.js';
import { viewOf } from './words.js';

/** Of the header itself; the key material lies after it in the same region. */
export const LUKS_HEADER_BYTES = 592;
export const LUKS_DIGEST_BYTES = 20;
/** Its places are counted in these, and each is encrypted by itself. */
export const LUKS_SECTOR = 512;

/**
 * Most iterations of PBKDF2 that are made for one image: minutes of one processor, where QEMU's default is two seconds
 * a key slot. A damaged header could ask for hours.
 */
export const MOST_ITERATIONS = 2 ** 28;

const MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');
const SALT_BYTES = 32;
const SLOTS = 8;
const FIRST_SLOT_AT = 208;
const SLOT_BYTES = 48;
const SLOT_IN_USE = 0x00ac_71f3;
const SLOT_UNUSED = 0x0000_dead;
/** 4000 is what every program writes. */
const MOST_STRIPES = 4000;
/** Two keys of AES-256, as XTS takes them. */
const MOST_KEY_BYTES = 64;

export interface KeySlot {
  salt: Uint8Array;
  iterations: number;
  /** Of the key material: bytes from the start of the region. */
  materialAt: number;
  stripes: number;
}

export interface LuksHeader {
  /** `aes` */
  cipher: string;
  /** `xts-plain64` */
  mode: string;
  /** Of key derivation and key material: `sha256`. */
  hash: string;
  /** Of the key that encrypts the data. */
  keyBytes: number;
  digest: Uint8Array;
  digestSalt: Uint8Array;
  digestIterations: number;
  /** Those in use, in their order. */
  slots: KeySlot[];
}

/** `bytes`: the first of the region, at least LUKS_HEADER_BYTES unless it is shorter; `regionBytes`: all of it. */
export function parseLuksHeader(bytes: Uint8Array, regionBytes: number): LuksHeader {
  if (bytes.length < LUKS_HEADER_BYTES || regionBytes < LUKS_HEADER_BYTES)
    throw damaged(`it has ${regionBytes} bytes, not ${LUKS_HEADER_BYTES} or more`, 0);
  const view = viewOf(bytes);
  if (MAGIC.compare(bytes, 0, MAGIC.length) !== 0)
    throw damaged('it does not begin with the magic bytes of LUKS', 0);
  const version = view.getUint16(6);
  if (version !== 1) throw unsupported(`LUKS version ${version}; version 1 is handled`);
  const keyBytes = view.getUint32(108);
  if (keyBytes < 1 || keyBytes > MOST_KEY_BYTES)
    throw damaged(`its key has ${keyBytes} bytes, not 1 to ${MOST_KEY_BYTES}`, 108);
  const header: LuksHeader = {
    cipher: nameAt(bytes, 8),
    mode: nameAt(bytes, 40),
    hash: nameAt(bytes, 72),
    keyBytes,
    digest: bytes.slice(112, 112 + LUKS_DIGEST_BYTES),
    digestSalt: bytes.slice(132, 132 + SALT_BYTES),
    digestIterations: iterationsAt(view, 164),
    slots: [],
  };
  for (let slot = 0; slot < SLOTS; slot++) {
    const at = FIRST_SLOT_AT + slot * SLOT_BYTES;
    const state = view.getUint32(at);
    if (state === SLOT_IN_USE) header.slots.push(slotAt(bytes, at, keyBytes, regionBytes));
    else if (state !== SLOT_UNUSED) throw damaged(`key slot ${slot} is neither in use nor unused`, at);
  }
  if (header.slots.length === 0) throw damaged('none of its key slots is in use', FIRST_SLOT_AT);
  requireBearable(header);
  return header;
}

function slotAt(bytes: Uint8Array, at: number, keyBytes: number, regionBytes: number): KeySlot {
  const view = viewOf(bytes);
  const materialAt = view.getUint32(at + 40) * LUKS_SECTOR;
  const stripes = view.getUint32(at + 44);
  if (stripes < 1 || stripes > MOST_STRIPES)
    throw damaged(`a key is split into ${stripes} stripes, not 1 to ${MOST_STRIPES}`, at + 44);
  if (materialAt < LUKS_HEADER_BYTES || materialAt + stripes * keyBytes > regionBytes)
    throw damaged('key material lies outside of the encryption header', at + 40);
  return {
    salt: bytes.slice(at + 8, at + 8 + SALT_BYTES),
    iterations: iterationsAt(view, at + 4),
    materialAt,
    stripes,
  };
}

function iterationsAt(view: DataView, at: number): number {
  const iterations = view.getUint32(at);
  if (iterations === 0) throw damaged('a key is derived in no iterations', at);
  return iterations;
}

/** A wrong secret is tried on every slot, and each time the digest is computed. */
function requireBearable({ slots, digestIterations }: LuksHeader): void {
  const iterations = slots.reduce((sum, slot) => sum + slot.iterations + digestIterations, 0);
  if (iterations > MOST_ITERATIONS)
    throw unsupported(`key slots that take ${iterations} iterations; at most ${MOST_ITERATIONS} are made`);
}

/** Ended by a zero byte, or as long as the field. */
function nameAt(bytes: Uint8Array, at: number): string {
  const name = Buffer.from(bytes.subarray(at, at + 32))
    .toString('latin1')
    .split('\0', 1)[0]!;
  if (!/^[\w:.()-]+$/.test(name)) throw damaged('the name of a cipher or hash in it is no name', at);
  return name;
}

function damaged(what: string, at: number): QcowError {
  return new QcowError('CORRUPT', `the LUKS header is damaged: ${what}`, {
    where: `LUKS header, byte ${at}`,
    hint: 'the image was left untouched',
  });
}

/** Without the secret such an image is compacted as far as its data can stay. */
export function unsupported(what: string): QcowError {
  return new QcowError('UNSUPPORTED', `the image is encrypted with ${what}`, {
    hint: 'without a secret its tables are compacted and its data stay where they are',
  });
}
