import { describe, expect, test } from 'vitest';
import { QcowError } from '../../src/errors.js';
import type { LuksHeader } from '../../src/format/luks.js';
import { cipherSpec } from '../../src/luks/cipher-spec.js';

const header = (mode: string, keyBytes: number, { cipher = 'aes', hash = 'sha256' } = {}): LuksHeader => ({
  cipher,
  mode,
  hash,
  keyBytes,
  digest: new Uint8Array(20),
  digestSalt: new Uint8Array(32),
  digestIterations: 1,
  slots: [],
});

describe('handled', () => {
  test.each([
    ['xts-plain64', 64, { mode: 'xts', keyBytes: 64, vectors: 'plain64' }],
    ['xts-plain', 32, { mode: 'xts', vectors: 'plain' }],
    ['xts-essiv:sha256', 48, { mode: 'xts', vectors: 'essiv', vectorHash: 'sha256' }],
    ['cbc-essiv:md5', 16, { mode: 'cbc', vectors: 'essiv', vectorHash: 'md5' }],
    // A hash of no use, which QEMU takes too.
    ['cbc-plain64:sha1', 32, { mode: 'cbc', vectors: 'plain64' }],
  ])('%s with a key of %i bytes', (mode, keyBytes, spec) => {
    expect(cipherSpec(header(mode, keyBytes))).toMatchObject(spec);
  });

  test.each(['sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160', 'md5'])('%s', (hash) => {
    expect(cipherSpec(header('xts-plain64', 64, { hash })).mode).toBe('xts');
  });
});

describe('refused by name', () => {
  test.each([
    ['xts-plain64', 64, { cipher: 'serpent' }, /serpent-xts-plain64/],
    ['xts-plain64', 64, { cipher: 'twofish' }, /twofish-xts-plain64/],
    ['cbc-plain64', 16, { cipher: 'cast5' }, /cast5-cbc-plain64/],
    ['xts-plain64', 64, { hash: 'whirlpool' }, /whirlpool/],
    ['ecb-plain64', 32, {}, /aes-ecb-plain64/],
    ['ctr-plain64', 32, {}, /aes-ctr-plain64/],
    ['xts', 64, {}, /aes-xts,/],
    ['xts-benbi', 64, {}, /benbi/],
    ['xts-essiv:sha1', 64, {}, /essiv:sha1/],
    ['xts-essiv', 64, {}, /xts-essiv,/],
    ['cbc-plain64', 24, {}, /24 bytes/],
    ['xts-plain64', 16, {}, /16 bytes/],
  ])('%s, %i, %j', (mode, keyBytes, more, words) => {
    let refusal: unknown = null;
    try {
      cipherSpec(header(mode, keyBytes, more));
    } catch (error) {
      refusal = error;
    }
    expect(refusal).toBeInstanceOf(QcowError);
    expect(refusal).toMatchObject({ code: 'UNSUPPORTED' });
    expect((refusal as QcowError).message).toMatch(words);
    expect((refusal as QcowError).message).toMatch(/without a secret/);
  });
});
