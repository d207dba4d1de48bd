import fs from 'node:fs';
import { expect, test } from 'vitest';
import { countFileSystems, estimateMemory, lookAt } from '../../src/cli/image-files.js';
import { image } from '../support/image-builder.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();

test('one file has one name, by path, symbolic link and hard link', async () => {
  const target = directory.store('a', Buffer.from('a'));
  const other = directory.store('b', Buffer.from('b'));
  const [symbolic, hard] = [directory.path('symbolic'), directory.path('hard')];
  fs.symlinkSync(target, symbolic);
  fs.linkSync(target, hard);
  const files = await lookAt([target, symbolic, hard, other]);
  expect(new Set(files.map(({ file }) => file)).size).toBe(2);
  expect(files[3]!.file).not.toBe(files[0]!.file);
  expect(new Set(files.map(({ fileSystem }) => fileSystem)).size).toBe(1);
});

test('what is missing or no regular file counts for no file system, and needs nothing', async () => {
  const missing = directory.path('missing');
  const files = await lookAt([missing, missing, directory.path('.'), '/dev/null', '/proc/self/status']);
  expect(files[0]!.file).not.toBe(files[1]!.file);
  expect(countFileSystems(files.slice(0, 4))).toBe(0);
  expect(countFileSystems(files)).toBe(1);
  await estimateMemory(files);
  expect(files.map(({ memoryBytes }) => memoryBytes)).toEqual([0, 0, 0, 0, 0]);
});

test('an image needs memory by its clusters; what is none needs nothing', async () => {
  const small = directory.store('small', image({ clusterBits: 9 }).writeRange(0, 20).build());
  const large = directory.store('large', image({ clusterBits: 16 }).build());
  fs.truncateSync(small, 2 ** 30);
  fs.truncateSync(large, 2 ** 30);
  const noise = directory.store('noise', Buffer.alloc(4096, 0xff));
  const short = directory.store('short', Buffer.from('QFI\xfb', 'latin1'));
  const files = await lookAt([small, large, noise, short]);
  await estimateMemory(files);
  const [of512, of64K, ofNoise, ofShort] = files.map(({ memoryBytes }) => memoryBytes);
  // 9 bytes and more for each of two million clusters.
  expect(of512).toBeGreaterThan(9 * 2 ** 21);
  expect(of64K).toBeLessThan(96 << 20);
  expect(of512! - of64K!).toBeGreaterThan(9 * (2 ** 21 - 2 ** 14));
  expect([ofNoise, ofShort]).toEqual([0, 0]);
});
