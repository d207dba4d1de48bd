import { expect, test } from 'vitest';
import { mergeStripes } from '../../src/luks/anti-forensic.js';

/** Material of the bytes 3, 10, 17, ...; the keys by an implementation of the specification in another language. */
test.each([
  [
    'sha256',
    64,
    3,
    '39b73703cd5301a140379b46031727e20967f49dac6a4cb50349dc59e1278a269a43c677b11fb79c2e3a15c7b157c3c310525b0fc03e34c8850b3b90fd54f07b',
  ],
  ['sha256', 16, 5, '26468619a47b49fcb7067ce2045a59ef'],
  ['sha1', 32, 4, 'a41f7d6f228a52b4c9249bf4173dbf46619164ba64c5a9daf94984e1ab010a02'],
  [
    'sha512',
    64,
    2,
    'c454369eb41a8430fc3812453a048b5703e003038bb92694ca7f4d9e965187ddb3820eb229ec2c36b171f23b9959c84c52202d2888599f6ced8cffae91c465a0',
  ],
  [
    'ripemd160',
    48,
    3,
    '54eec0b99c0e59e9c046138ffd5486228f5109281eec747a2eb14e22e79a1c0d5b75ad8b79c159eb32d05d0b86e83c57',
  ],
])('%s, a key of %i bytes in %i stripes', (hash, keyBytes, stripes, key) => {
  const material = Uint8Array.from({ length: keyBytes * stripes }, (_, i) => (i * 7 + 3) % 256);
  const before = material.slice();
  expect(Buffer.from(mergeStripes(material, keyBytes, stripes, hash)).toString('hex')).toBe(key);
  expect(material).toEqual(before);
});

test('one stripe is the key itself', () => {
  const material = Uint8Array.of(1, 2, 3, 4);
  expect(mergeStripes(material, 4, 1, 'sha256')).toEqual(material);
});
