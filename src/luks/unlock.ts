/** From the secret to the key of the data: each key slot in use is tried, in order, as QEMU does. */
import { pbkdf2, timingSafeEqual } from 'node:crypto';
import type { BlockDevice } from '../device/block-device.js';
import { QcowError } from '../errors.js';
import type { EncryptionHeader } from '../format/encryption.js';
import {
  type KeySlot,
  LUKS_DIGEST_BYTES,
  LUKS_HEADER_BYTES,
  type LuksHeader,
  parseLuksHeader,
} from '../format/luks.js';
import { mergeStripes } from './anti-forensic.js';
import { type CipherSpec, cipherSpec } from './cipher-spec.js';
import { Reencryption } from './reencryption.js';
import { SectorCipher } from './sector-cipher.js';

/** Throws WRONG_SECRET, UNSUPPORTED or CORRUPT; reads only, and keeps neither the secret nor a key in memory of its own. */
export async function unlock(
  device: BlockDevice,
  { offset, lengthBytes }: EncryptionHeader,
  secret: Uint8Array,
): Promise<Reencryption> {
  const bytes = new Uint8Array(Math.min(LUKS_HEADER_BYTES, lengthBytes));
  await device.read(bytes, offset);
  const header = parseLuksHeader(bytes, lengthBytes);
  const spec = cipherSpec(header);
  for (const slot of header.slots) {
    const material = new Uint8Array(slot.stripes * header.keyBytes);
    await device.read(material, offset + slot.materialAt);
    const key = await tryKeySlot(header, spec, slot, material, secret);
    if (key === null) continue;
    const cipher = new SectorCipher(spec, key);
    key.fill(0);
    return new Reencryption(cipher);
  }
  throw wrongSecret(secret, header.slots.length);
}

/** Null where the secret is not that of this slot. `material` is overwritten. */
async function tryKeySlot(
  header: LuksHeader,
  spec: CipherSpec,
  { salt, iterations, stripes }: KeySlot,
  material: Uint8Array,
  secret: Uint8Array,
): Promise<Uint8Array | null> {
  const { keyBytes, hash, digest, digestSalt, digestIterations } = header;
  const slotKey = await derive(secret, salt, iterations, keyBytes, hash);
  new SectorCipher(spec, slotKey).decrypt(material, 0);
  slotKey.fill(0);
  const key = mergeStripes(material, keyBytes, stripes, hash);
  material.fill(0);
  let isKey = false;
  try {
    isKey = timingSafeEqual(await derive(key, digestSalt, digestIterations, LUKS_DIGEST_BYTES, hash), digest);
    return isKey ? key : null;
  } finally {
    if (!isKey) key.fill(0);
  }
}

/** In another thread: QEMU's default takes two seconds. */
function derive(
  secret: Uint8Array,
  salt: Uint8Array,
  iterations: number,
  lengthBytes: number,
  hash: string,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    pbkdf2(secret, salt, iterations, lengthBytes, hash, (error, key) =>
      error === null ? resolve(key) : reject(error),
    );
  });
}

const NEWLINE = 0x0a;

function wrongSecret(secret: Uint8Array, slots: number): QcowError {
  const what = `the secret opens none of the image's key slots (${slots} in use)`;
  if (secret.length === 0) return new QcowError('WRONG_SECRET', what, { hint: 'the secret is empty' });
  if (secret.at(-1) !== NEWLINE) return new QcowError('WRONG_SECRET', what);
  return new QcowError('WRONG_SECRET', what, {
    hint: 'it ends in a newline, which counts as part of it, as it does for QEMU: write the file without one (`printf %s`)',
  });
}
