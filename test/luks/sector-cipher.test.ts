/** Sectors in bulk against published vectors, and against Node's own ciphers made anew for each sector. */
import { createCipheriv, createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { CipherSpec } from '../../src/luks/cipher-spec.js';
import { SectorCipher } from '../../src/luks/sector-cipher.js';
import { Random } from '../support/random.js';
import { hex } from '../format/bytes.js';

const xts = (keyBytes: number, vectors: CipherSpec['vectors'] = 'plain64'): CipherSpec => ({
  mode: 'xts',
  keyBytes,
  vectors,
  vectorHash: 'sha256',
});

describe('XTS-AES-128 as IEEE 1619 has it', () => {
  test.each([
    [
      1,
      '00000000000000000000000000000000 00000000000000000000000000000000',
      0,
      '00'.repeat(32),
      '917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e',
    ],
    [
      2,
      '11111111111111111111111111111111 22222222222222222222222222222222',
      0x3333333333,
      '44'.repeat(32),
      'c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0',
    ],
    [
      3,
      'fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0 22222222222222222222222222222222',
      0x3333333333,
      '44'.repeat(32),
      'af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89',
    ],
  ])('vector %i', (_, key, sector, plain, encrypted) => {
    const cipher = new SectorCipher(xts(32), hex(key));
    const bytes = hex(plain);
    cipher.encrypt(bytes, sector);
    expect(Buffer.from(bytes).toString('hex')).toBe(encrypted);
    cipher.decrypt(bytes, sector);
    expect(Buffer.from(bytes).toString('hex')).toBe(plain);
  });
});

/** One cipher of Node's for each sector. */
function bySector(spec: CipherSpec, key: Uint8Array, plain: Uint8Array, firstSector: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < plain.length; at += 512) {
    const sector = firstSector + at / 512;
    let vector = Buffer.alloc(16);
    vector.writeBigUInt64LE(BigInt(spec.vectors === 'plain' ? sector % 2 ** 32 : sector));
    if (spec.vectors === 'essiv') {
      const hash = createHash(spec.vectorHash).update(key).digest();
      const ecb = createCipheriv(`aes-${hash.length * 8}-ecb`, hash, null).setAutoPadding(false);
      vector = ecb.update(vector);
    }
    const bits = (spec.mode === 'xts' ? key.length / 2 : key.length) * 8;
    const cipher = createCipheriv(`aes-${bits}-${spec.mode}`, key, vector).setAutoPadding(false);
    parts.push(cipher.update(plain.subarray(at, at + 512)));
  }
  return Buffer.concat(parts);
}

const SPECS: CipherSpec[] = (['plain', 'plain64', 'essiv'] as const).flatMap((vectors) => [
  xts(32, vectors),
  xts(64, vectors),
  { mode: 'cbc', keyBytes: 16, vectors, vectorHash: 'md5' },
  { mode: 'cbc', keyBytes: 32, vectors, vectorHash: 'sha256' },
]);

describe.each(SPECS)('$mode, key of $keyBytes bytes, $vectors', (spec) => {
  test.each([
    [1, 0],
    [1, 2 ** 32 - 1],
    [7, 1],
    [128, 5],
    [129, 2 ** 40 + 3],
    [300, 2 ** 32 - 100],
  ])('%i sectors from sector %i on', (sectors, first) => {
    const random = new Random(sectors);
    const key = random.bytes(spec.keyBytes);
    const plain = random.bytes(sectors * 512);
    const cipher = new SectorCipher(spec, key);
    const bytes = plain.slice();
    // Twice: what a call leaves behind must not show in the next.
    for (let round = 0; round < 2; round++) {
      cipher.encrypt(bytes, first);
      expect(Buffer.compare(bytes, bySector(spec, key, plain, first))).toBe(0);
      cipher.decrypt(bytes, first);
      expect(Buffer.compare(bytes, plain)).toBe(0);
    }
  });

  test('the last sector may be short, as in key material', () => {
    const random = new Random(9);
    const key = random.bytes(spec.keyBytes);
    const plain = random.bytes(512 + 48);
    const bytes = plain.slice();
    const cipher = new SectorCipher(spec, key);
    cipher.encrypt(bytes, 3);
    expect(Buffer.compare(bytes, bySector(spec, key, plain, 3))).toBe(0);
    cipher.decrypt(bytes, 3);
    expect(Buffer.compare(bytes, plain)).toBe(0);
  });
});

test('AES-192 as XTS, which Node has not: what is encrypted is decrypted, and depends on the place', () => {
  const random = new Random(4);
  const cipher = new SectorCipher(xts(48), random.bytes(48));
  const plain = random.bytes(2048);
  const [one, other] = [plain.slice(), plain.slice()];
  cipher.encrypt(one, 10);
  cipher.encrypt(other, 11);
  expect(Buffer.compare(one, other)).not.toBe(0);
  cipher.decrypt(one, 10);
  expect(Buffer.compare(one, plain)).toBe(0);
});

test('the key may be overwritten once the cipher is made', () => {
  const key = new Random(4).bytes(64);
  const [kept, overwritten] = [new SectorCipher(xts(64), key.slice()), new SectorCipher(xts(64), key)];
  key.fill(0);
  const [one, other] = [new Uint8Array(1024), new Uint8Array(1024)];
  kept.encrypt(one, 1);
  overwritten.encrypt(other, 1);
  expect(Buffer.compare(one, other)).toBe(0);
});

test('a key of another length and half a block are mistakes of the caller', () => {
  expect(() => new SectorCipher(xts(64), new Uint8Array(32))).toThrow(/another length/);
  expect(() => new SectorCipher(xts(32), new Uint8Array(32)).encrypt(new Uint8Array(520), 0)).toThrow(
    /half a block/,
  );
});
