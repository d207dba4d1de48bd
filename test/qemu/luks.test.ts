/**
 * LUKS with its key, judged by QEMU: given an image that QEMU encrypts, compacting it with the secret leaves the least
 * file, of which QEMU reads the same. All ciphers are in test/long/luks.test.ts: QEMU takes seconds to make one image.
 */
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { compact } from '../../src/index.js';
import { encryptedSource, guestIo, layoutOf, patch } from '../e2e/images.js';
import { type Encryption, checkImage, qemuImg, qemuIo, secretObject } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { createEncrypted, retried, useEncrypted } from './encrypted-images.js';
import { compactWithKey } from './with-key.js';

const FIXTURE = fileURLToPath(new URL('../../fixtures/luks.qcow2', import.meta.url));
const FIXTURE_KEY: Encryption = { format: 'luks', secret: 'fixture' };
const encryption: Encryption = { format: 'luks', secret: 'secret' };
const directory = temporaryDirectory();
const image = directory.path('image.qcow2');

test('the fixture: only the header stays, and QEMU goes on writing', async () => {
  fs.copyFileSync(FIXTURE, image);
  const { pinnedClusters, lengthBefore, lengthAfter, bytesMoved } = await compactWithKey(image, FIXTURE_KEY);
  expect(pinnedClusters).toBe(Math.ceil(layoutOf(image).encryptionHeader!.length / 4096));
  expect(lengthAfter).toBeLessThan(lengthBefore);
  expect(bytesMoved).toBeGreaterThan(0);
  guestIo(image, ['write -q -P 7 1M 300k', 'write -q -P 8 0 20k'], FIXTURE_KEY);
  const source = encryptedSource(image, FIXTURE_KEY);
  const [object, secret, how, options] = source;
  qemuIo(options!, ['read -q -P 7 1M 300k', 'read -q -P 8 0 20k'], [object!, secret!, how!]);
  expect(checkImage(image, FIXTURE_KEY)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
});

test('compressed clusters, which QEMU does not encrypt, move as they are', async () => {
  fs.copyFileSync(FIXTURE, image);
  const writes = [...Array(24).keys()].map((at) => `write -q -c -P ${at + 1} ${3072 + at * 4}k 4k`);
  guestIo(
    image,
    [...writes, 'write -q -P 99 5M 40k', 'discard -q 3080k 40k', 'discard -q 0 8k'],
    FIXTURE_KEY,
  );
  const { excessClusters, bytesMoved } = await compactWithKey(image, FIXTURE_KEY);
  expect(excessClusters).toBe(0);
  expect(bytesMoved).toBeGreaterThan(0);
});

test('a cipher that is not handled is refused by name, and compacted without the secret', async () => {
  fs.copyFileSync(FIXTURE, image);
  patch(image, layoutOf(image).encryptionHeader!.offset + 8, Buffer.from('serpent\0'));
  const state = fs.readFileSync(image);
  await expect(compact(image, { secret: 'fixture' })).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringMatching(/serpent-xts-plain64/) as string,
  });
  expect(fs.readFileSync(image).equals(state)).toBe(true);
  expect(await compact(image)).toMatchObject({ outcome: 'compacted' });
});

test('preallocated clusters, holes of the host file that read as noise, read the same noise', async () => {
  fs.copyFileSync(FIXTURE, image);
  const source = encryptedSource(image, FIXTURE_KEY).at(-1)!;
  const object = secretObject(FIXTURE_KEY);
  qemuImg('resize', '-q', '--preallocation=metadata', ...object, '--image-opts', source, '+2M');
  guestIo(image, ['discard -q 2M 8M', 'write -q -P 2 17M 40k'], FIXTURE_KEY);
  expect(() => guestIo(image, ['read -q -P 0 16M 1M'], FIXTURE_KEY)).toThrow(/Pattern verification failed/);
  const result = await compactWithKey(image, FIXTURE_KEY);
  // All that was added, but the 40 KiB written and its tables.
  expect(result.lengthBefore - result.allocatedBefore).toBeGreaterThan(1.5 * 2 ** 20);
  expect(result.bytesMoved).toBeGreaterThan(10 * 4096);
});

test('snapshots; the secret of a second key slot, and that of the first after it was taken away', async () => {
  const cluster = 4096;
  createEncrypted(image, `cluster_size=${cluster}`, String(60 * cluster), encryption);
  useEncrypted(image, cluster, encryption);
  const amend = (...options: string[]) =>
    retried(() => {
      const source = encryptedSource(image, encryption).at(-1)!;
      const second = ['--object', 'secret,id=second,data=second'];
      qemuImg(
        'amend',
        ...secretObject(encryption),
        ...second,
        '-o',
        options.join(','),
        '--image-opts',
        source,
      );
    });
  amend('encrypt.new-secret=second', 'encrypt.state=active', 'encrypt.iter-time=10');
  const spoiled = fs.readFileSync(image);
  const result = await compactWithKey(image, encryption, 'second');
  expect(result).toMatchObject({ outcome: 'compacted', excessClusters: 0 });
  expect(result.bytesMoved).toBeGreaterThan(0);
  fs.writeFileSync(image, spoiled);
  amend('encrypt.old-secret=key', 'encrypt.state=inactive');
  await expect(compact(image, { secret: encryption.secret })).rejects.toMatchObject({ code: 'WRONG_SECRET' });
  await compactWithKey(image, { format: 'luks', secret: 'second' });
});

describe('other ciphers', () => {
  test.each([
    [512, ['aes-128', 'cbc', 'essiv', 'sha512']],
    [4096, ['aes-192', 'xts', 'plain', 'sha1']],
  ] as const)('clusters of %i bytes, %j', async (cluster, [cipher, mode, vectors, hash]) => {
    createEncrypted(image, `cluster_size=${cluster}`, String(60 * cluster), encryption, [
      `encrypt.cipher-alg=${cipher}`,
      `encrypt.cipher-mode=${mode}`,
      `encrypt.ivgen-alg=${vectors}`,
      ...(vectors === 'essiv' ? ['encrypt.ivgen-hash-alg=sha256'] : []),
      `encrypt.hash-alg=${hash}`,
    ]);
    useEncrypted(image, cluster, encryption);
    const result = await compactWithKey(image, encryption);
    expect(result.outcome).toBe('compacted');
    expect(result.bytesMoved).toBeGreaterThan(0);
  });
});
