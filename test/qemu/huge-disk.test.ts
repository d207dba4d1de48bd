/** Disks of more bytes than a number holds exactly: only sizes in whole sectors, and no offset on the host. */
import fs from 'node:fs';
import { expect, test } from 'vitest';
import { check, compact } from '../../src/index.js';
import { expectMinimal } from '../e2e/images.js';
import { qemuImg, qemuIo } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const image = temporaryDirectory().path('image.qcow2');

test('a disk of 1 EiB', async () => {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', image, '1E');
  const end = 2 ** 60 - 2 ** 21;
  const write = (pattern: number, at: number) => `write -P ${pattern} ${at} 64k`;
  qemuIo(image, [write(1, 0), write(2, 2 ** 53 + 2 ** 30), write(3, end), 'discard 0 2M']);
  const { virtualBytes } = await check(image);
  expect(virtualBytes).toBe(2 ** 60);
  const { lengthBefore, lengthAfter } = await compact(image, { runtimeAsserts: true });
  expect(lengthBefore - lengthAfter).toBe(2 << 20);
  qemuIo(image, ['read -P 0 0 64k', `read -P 2 ${2 ** 53 + 2 ** 30} 64k`, `read -P 3 ${end} 64k`]);
  expectMinimal(image);
  expect(fs.statSync(image).size).toBe(lengthAfter);
});
