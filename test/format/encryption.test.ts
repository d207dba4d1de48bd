import { describe, expect, test } from 'vitest';
import { QcowError } from '../../src/errors.js';
import { encryptionHeader } from '../../src/format/encryption.js';
import { parseExtensions, parseHeader } from '../../src/format/header.js';
import { image } from '../support/image-builder.js';
import { patched } from './bytes.js';

const plain = image({ clusterBits: 12 }).write(0).build();
/** The method is at 32; extensions begin at 112. */
const method = (digits: string, extensions = '') => patched(patched(plain, 32, digits), 112, extensions);
const POINTER = '0537be77 00000010 0000000000030000 00000000001f9000';

function parsed(bytes: Uint8Array) {
  const cluster0 = bytes.subarray(0, 4096);
  const header = parseHeader(cluster0);
  return encryptionHeader(header, parseExtensions(cluster0, header), cluster0);
}

test('LUKS: place and length of its header, and the field that says so', () => {
  expect(parsed(method('00000002', POINTER))).toEqual({ slot: 120, offset: 0x30000, lengthBytes: 0x1f9000 });
});

test.each([
  ['no encryption', '00000000'],
  ['AES', '00000001'],
])('%s has none', (_, digits) => {
  expect(parsed(method(digits))).toBeNull();
});

describe('refused, as QEMU does', () => {
  test.each([
    ['a header without encryption', method('00000000', POINTER), /not encrypted with LUKS.*byte 112/],
    ['a header with AES', method('00000001', POINTER), /not encrypted with LUKS/],
    ['LUKS without a header', method('00000002'), /has no encryption header.*byte 32/],
    [
      'a pointer of another length',
      method('00000002', '0537be77 00000008 0000000000030000'),
      /8 bytes, not 16/,
    ],
    ['two headers', method('00000002', POINTER + POINTER), /more than one/],
    [
      'an offset of 2^53',
      method('00000002', '0537be77 00000010 0020000000000000 0000000000001000'),
      /impossible place/,
    ],
    [
      'a length of 2^63',
      method('00000002', '0537be77 00000010 0000000000030000 8000000000000000'),
      /impossible place/,
    ],
    [
      'no length',
      method('00000002', '0537be77 00000010 0000000000030000 0000000000000000'),
      /impossible place/,
    ],
  ])('%s', (_, bytes, message) => {
    let refusal: unknown = null;
    try {
      parsed(bytes);
    } catch (error) {
      refusal = error;
    }
    expect(refusal).toBeInstanceOf(QcowError);
    expect(refusal).toMatchObject({ code: 'CORRUPT' });
    expect((refusal as QcowError).message).toMatch(message);
  });
});
