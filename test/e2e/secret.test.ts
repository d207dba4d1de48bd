/** `--secret-file` and QCOW_SECRET as a user meets them, on an image that QEMU encrypted. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { QcowError, compact, eraseJunk, plan } from '../../src/index.js';
import { type Encryption, checkImage } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CLI, cli, cliJson } from './cli.js';
import { digests, encryptedSource, fileState, makeHoley } from './images.js';

const FIXTURE = fileURLToPath(new URL('../../fixtures/luks.qcow2', import.meta.url));
const KEY: Encryption = { format: 'luks', secret: 'fixture' };
const directory = temporaryDirectory();
const image = directory.path('image.qcow2');
const secretFile = (content: string) => directory.store('secret', Buffer.from(content));

function fresh(): string {
  fs.copyFileSync(FIXTURE, image);
  return image;
}

describe('compacts with the secret', () => {
  test.each<[string, () => ReturnType<typeof cli>]>([
    ['of a file', () => cli(['--secret-file', secretFile('fixture'), image])],
    ['of the environment', () => shell('QCOW_SECRET=fixture "$@"')],
    ['of a pipe', () => shell('"$@" --secret-file <(printf fixture)')],
  ])('%s', (_, run) => {
    const before = digests(fresh(), undefined, encryptedSource(image, KEY));
    const { size } = fs.statSync(image);
    expect(run()).toMatchObject({ status: 0, stdout: expect.stringMatching(/reclaimed/) as string });
    expect(fs.statSync(image).size).toBeLessThan(size);
    expect(digests(image, undefined, encryptedSource(image, KEY))).toEqual(before);
    expect(checkImage(image, KEY)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
    // Without it there is nothing left to gain.
    expect(cli([image])).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/already compact/) as string,
    });
  });

  function shell(command: string) {
    return spawnSync('bash', ['-c', command, 'bash', process.execPath, CLI, image], {
      encoding: 'utf8',
    }) as ReturnType<typeof cli>;
  }

  test('`--dry-run` tells the figures with it', () => {
    const without = cliJson(['--dry-run', fresh()]).document.images[0]!;
    const file = secretFile('fixture');
    const planned = cliJson(['--dry-run', '--secret-file', file, image]).document.images[0]!;
    const done = cliJson(['--secret-file', file, image]).document.images[0]!;
    expect(planned.lengthAfter).toBeLessThan(without.lengthAfter as number);
    expect(planned.pinnedClusters).toBeLessThan(without.pinnedClusters as number);
    for (const name of ['lengthAfter', 'pinnedClusters', 'clustersToMove', 'bytesToCopy'])
      expect(done[name], name).toBe(planned[name]);
    expect(planned.notices).toEqual([]);
    expect(without.notices).toEqual([expect.stringMatching(/--secret-file/)]);
  });

  test.each([['--check'], ['--erase-only']])('`%s` takes it and does not need it', (mode) => {
    fresh();
    const wrong = cli([mode, '--secret-file', secretFile('wrong'), image]);
    expect(wrong.status).toBe(0);
    expect(wrong.stderr).not.toMatch(/secret/);
  });
});

describe('a wrong secret', () => {
  test.each([
    ['another', 'another', /the secret opens none of the image's key slots \(1 in use\)\n/],
    ['none', '', /the secret is empty\n/],
    ['with a newline', 'fixture\n', /ends in a newline/],
  ])('%s: one line, exit code 10, nothing changed', (_, content, words) => {
    const state = fileState(fresh());
    for (const mode of [[], ['--dry-run']]) {
      const run = cli([...mode, '--quiet', '--secret-file', secretFile(content), image]);
      expect(run).toMatchObject({ status: 10, stdout: '' });
      expect(run.stderr).toMatch(/^qcow-compact: [^\n]*\n$/);
      expect(run.stderr).toMatch(words);
    }
    expect(fileState(image)).toEqual(state);
  });

  test('is not told by `--debug`', () => {
    fresh();
    const { stderr } = cli(['--debug', '--secret-file', secretFile('correct horse'), image]);
    expect(stderr).toMatch(/WRONG_SECRET/);
    expect(stderr).not.toMatch(/correct horse|63 6f 72 72|Uint8Array|Buffer/);
  });

  test('is told even where there is nothing to move', () => {
    fresh();
    expect(cli(['--secret-file', secretFile('fixture'), image]).status).toBe(0);
    expect(cli(['--secret-file', secretFile('wrong'), image]).status).toBe(10);
  });

  test('stops nothing but its image', () => {
    const other = makeHoley(directory.path('other.qcow2'));
    const run = cli(['--secret-file', secretFile('wrong'), fresh(), other]);
    expect(run.status).toBe(10);
    expect(run.stdout).toMatch(/other\.qcow2: .*reclaimed/);
  });
});

test('a secret file that cannot be read is a wrong command line, before any image is opened', () => {
  const state = fileState(fresh());
  const { run, document } = cliJson(['--secret-file', directory.path('missing'), image]);
  expect(run.status).toBe(64);
  expect(document).toMatchObject({ images: [], error: { code: 'USAGE' }, exitStatus: 64 });
  const locked = secretFile('fixture');
  fs.chmodSync(locked, 0);
  fs.chmodSync(directory.path('.'), 0o755);
  const other = process.getuid?.() === 0 ? { uid: 65534 } : {};
  const unreadable = cli(['--secret-file', locked, image], other);
  expect(unreadable).toMatchObject({ status: 64, stdout: '' });
  expect(unreadable.stderr).toMatch(/^qcow-compact: cannot read the secret file[^\n]*EACCES[^\n]*\n$/);
  fs.rmSync(locked);
  expect(fileState(image)).toEqual(state);
});

describe('an image that needs none', () => {
  test('is compacted, with a notice', async () => {
    const run = cli(['--secret-file', secretFile('any'), makeHoley(image)]);
    expect(run.status).toBe(0);
    expect(run.stderr).toMatch(/a secret was given.*not needed/);
    expect((await plan(image, { secret: 'any' })).notices.join()).toMatch(/not needed/);
  });
});

describe('the library', () => {
  test('takes text and bytes, and leaves them as they are', async () => {
    const secret = Uint8Array.from(Buffer.from('fixture'));
    expect(await compact(fresh(), { secret })).toMatchObject({ outcome: 'compacted' });
    expect(Buffer.from(secret).toString()).toBe('fixture');
    expect(await compact(fresh(), { secret: 'fixture' })).toMatchObject({ outcome: 'compacted' });
  });

  test('names a secret of another type, and not its value', async () => {
    for (const call of [compact, plan]) {
      const error: unknown = await call(fresh(), { secret: 1234 as unknown as string }).catch(
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(QcowError);
      expect(error).toMatchObject({ code: 'USAGE', message: 'secret must be text or bytes; got number' });
    }
  });

  test('after the header of LUKS there is nothing that could not be punched', async () => {
    await compact(fresh(), { secret: 'fixture' });
    expect(await eraseJunk(image, { punch: true })).toMatchObject({ outcome: 'clean' });
  });
});
