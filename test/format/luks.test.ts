import { describe, expect, test } from 'vitest';
import { QcowError } from '../../src/errors.js';
import { LUKS_HEADER_BYTES, MOST_ITERATIONS, parseLuksHeader } from '../../src/format/luks.js';
import { luksHeader } from '../support/luks.js';
import { patched } from './bytes.js';

const REGION = 1536;
const sound = new Uint8Array(luksHeader());

function refusal(bytes: Uint8Array, regionBytes = REGION): QcowError {
  try {
    parseLuksHeader(bytes, regionBytes);
  } catch (error) {
    if (error instanceof QcowError) return error;
    throw error;
  }
  throw new Error('accepted');
}

test('every field, as the specification places it', () => {
  const bytes = patched(patched(sound, 212, '00001234'), 164, '00005678');
  expect(parseLuksHeader(bytes, REGION)).toEqual({
    cipher: 'aes',
    mode: 'xts-plain64',
    hash: 'sha256',
    keyBytes: 64,
    digest: bytes.slice(112, 132),
    digestSalt: bytes.slice(132, 164),
    digestIterations: 0x5678,
    slots: [{ salt: bytes.slice(216, 248), iterations: 0x1234, materialAt: 1024, stripes: 2 }],
  });
});

test('slots in use, in their order', () => {
  const bytes = luksHeader({ slots: { 1: 'one', 4: 'four', 7: 'seven' } });
  const { slots } = parseLuksHeader(bytes, bytes.length);
  expect(slots.map(({ materialAt }) => materialAt)).toEqual([3 * 512, 6 * 512, 9 * 512]);
});

test('a name may fill its field', () => {
  const name = 'x'.repeat(32);
  expect(parseLuksHeader(patched(sound, 8, Buffer.from(name).toString('hex')), REGION).cipher).toBe(name);
});

describe('damage', () => {
  test.each([
    ['another magic', 0, '00', /magic bytes of LUKS.*byte 0/],
    ['no name of a cipher', 8, '00', /no name.*byte 8/],
    ['a name with an escape sequence', 40, '1b5b', /no name.*byte 40/],
    ['no hash', 72, '00', /no name.*byte 72/],
    ['no key', 108, '00000000', /0 bytes.*byte 108/],
    ['a long key', 108, '00000041', /65 bytes, not 1 to 64/],
    ['a key of 4 GiB', 108, 'ffffffff', /4294967295 bytes/],
    ['no iterations of the digest', 164, '00000000', /no iterations.*byte 164/],
    ['no iterations of a slot', 212, '00000000', /no iterations.*byte 212/],
    ['a slot in an unknown state', 208, '00000001', /key slot 0 is neither in use nor unused.*byte 208/],
    ['the last slot in an unknown state', 208 + 7 * 48, 'ffffffff', /key slot 7/],
    ['no slot in use', 208, '0000dead', /none of its key slots/],
    ['no stripes', 252, '00000000', /0 stripes.*byte 252/],
    ['more stripes than anybody makes', 252, '00000fa1', /4001 stripes/],
    ['key material in the header', 248, '00000001', /key material lies outside.*byte 248/],
    ['key material that ends behind the region', 248, '00000003', /key material lies outside/],
    ['key material at 2 TiB', 248, 'ffffffff', /key material lies outside/],
    ['stripes that reach beyond the region', 252, '00000009', /key material lies outside/],
  ])('%s', (_, at, digits, words) => {
    const error = refusal(patched(sound, at, digits));
    expect(error).toMatchObject({ code: 'CORRUPT' });
    expect(error.message).toMatch(words);
  });

  test('of a slot that is not in use nothing matters', () => {
    const bytes = patched(sound, 256, '0000dead ffffffff');
    expect(parseLuksHeader(patched(bytes, 256 + 40, 'ffffffff ffffffff'), REGION).slots).toHaveLength(1);
  });

  test('a region that ends within the header', () => {
    expect(refusal(sound, LUKS_HEADER_BYTES - 1)).toMatchObject({ code: 'CORRUPT' });
    expect(refusal(sound.subarray(0, 300), REGION)).toMatchObject({ code: 'CORRUPT' });
  });

  test('material that just fits', () => {
    expect(parseLuksHeader(sound, 1024 + 128).slots).toHaveLength(1);
    expect(refusal(sound, 1024 + 127).message).toMatch(/key material/);
  });
});

test('version 2 is refused by its name', () => {
  expect(refusal(patched(sound, 6, '0002'))).toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringMatching(/LUKS version 2/) as string,
  });
});

test('iterations of all slots in use are counted, those of the digest with each', () => {
  const half = luksHeader({ slots: { 0: 'a', 1: 'b' } });
  half.writeUInt32BE(MOST_ITERATIONS / 4, 164);
  half.writeUInt32BE(MOST_ITERATIONS / 4, 212);
  half.writeUInt32BE(MOST_ITERATIONS / 4, 260);
  expect(parseLuksHeader(half, half.length).slots).toHaveLength(2);
  half.writeUInt32BE(MOST_ITERATIONS / 4 + 1, 260);
  expect(refusal(half, half.length)).toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringMatching(/268435457 iterations; at most 268435456/) as string,
  });
  expect(refusal(patched(sound, 212, 'ffffffff'))).toMatchObject({ code: 'UNSUPPORTED' });
});
