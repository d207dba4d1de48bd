import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import * as hostCalls from '../../src/device/host-calls.js';
import { openImageFile, type OpenedImage } from '../../src/device/open-image.js';
import { QcowError } from '../../src/errors.js';
import { temporaryPath } from './temporary-directory.js';

vi.mock('../../src/device/host-calls.js', { spy: true });
afterEach(() => {
  // Back to the real functions.
  vi.resetAllMocks();
  vi.restoreAllMocks();
});

function temporaryImage(content = 'content'): string {
  const image = temporaryPath('image');
  fs.writeFileSync(image, content);
  return image;
}

async function open(image: string, mode: 'write' | 'inspect' = 'write'): Promise<OpenedImage> {
  const opened = await openImageFile(image, { mode });
  onTestFinished(() => opened.device.close());
  return opened;
}

async function refusal(image: string, mode: 'write' | 'inspect' = 'write'): Promise<QcowError> {
  const error = await openImageFile(image, { mode }).then(
    async ({ device }) => device.close(),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(QcowError);
  return error as QcowError;
}

/** Tries, in another process, to take the lock that conflicts; exits with 0 when it got it. */
const LOCK_PROGRAM = `
  const fs = require('node:fs');
  const { fcntl, constants } = require('fs-ext');
  const fd = fs.openSync(process.argv[1], 'r+');
  fcntl(fd, 'setlk', constants.F_WRLCK, (error) => {
    console.log(error === null ? 'locked' : error.code);
    if (error !== null) process.exit(1);
    process.stdin.resume().on('end', () => process.exit(0));
  });`;

function lockedByOthers(image: string): boolean {
  const child = spawnSync(process.execPath, ['-e', LOCK_PROGRAM, image], { encoding: 'utf8', input: '' });
  expect(child.stderr).toBe('');
  return child.status !== 0;
}

describe('opening an image', () => {
  test('gives a locked device with the content of the file', async () => {
    const image = temporaryImage('abc');
    const { device, readOnly, locked } = await open(image);
    const target = new Uint8Array(3);
    await device.read(target, 0);
    expect(new TextDecoder().decode(target)).toBe('abc');
    expect([readOnly, locked, device.lengthBytes]).toEqual([false, true, 3]);
  });

  test('keeps other processes from locking it until it is closed, whatever is done meanwhile', async () => {
    const image = temporaryImage();
    const { device } = await open(image);
    expect(lockedByOthers(image)).toBe(true);
    await device.write(new Uint8Array(4096), 0);
    await device.truncate(100);
    await device.flush();
    device.dataExtent(0, 100);
    void device.canPunch;
    await device.freeBytes();
    device.allocatedBytes();
    expect(lockedByOthers(image)).toBe(true);
    await device.close();
    expect(lockedByOthers(image)).toBe(false);
  });

  test('refuses an image that another process has locked, and takes it when that has gone', async () => {
    const image = temporaryImage();
    const child = spawn(process.execPath, ['-e', LOCK_PROGRAM, image], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    onTestFinished(() => void child.kill());
    await once(child.stdout, 'data');
    for (const mode of ['write', 'inspect'] as const) {
      const error = await refusal(image, mode);
      expect(error.code).toBe('IN_USE');
      expect(error.message).toContain('image is in use by another process (a running VM?)');
    }
    child.stdin.end();
    await once(child, 'exit');
    expect((await open(image)).locked).toBe(true);
  });

  test('refuses an image that QEMU has open', async (context) => {
    const image = temporaryPath('image');
    const made = spawnSync('qemu-img', ['create', '-f', 'qcow2', image, '1M']);
    context.skip(made.status !== 0, 'qemu-img is not installed');
    const { device } = await open(image);
    const seen = spawnSync('qemu-img', ['info', image], { encoding: 'utf8' });
    expect(seen.status).not.toBe(0);
    expect(seen.stderr).toContain('lock');
    await device.close();

    const child = spawn('qemu-io', [image], { stdio: ['pipe', 'pipe', 'inherit'] });
    onTestFinished(() => void child.kill());
    const started = await Promise.race([
      once(child.stdout, 'data').then(() => true),
      once(child, 'error').then(() => false),
    ]);
    context.skip(!started, 'qemu-io is not installed');
    expect((await refusal(image)).code).toBe('IN_USE');
    child.stdin.end('quit\n');
    await once(child, 'exit');
    await open(image);
  });
});

describe('a file that this process has open already', () => {
  test.each([
    ['the same path', (image: string) => image],
    [
      'a hard link',
      (image: string) => {
        fs.linkSync(image, `${image}.link`);
        return `${image}.link`;
      },
    ],
    [
      'a symbolic link',
      (image: string) => {
        fs.symlinkSync(image, `${image}.symlink`);
        return `${image}.symlink`;
      },
    ],
  ])('is refused through %s, and its lock stays', async (_name, other) => {
    const image = temporaryImage();
    const { device } = await open(image);
    const second = other(image);
    for (const mode of ['write', 'inspect'] as const) {
      const error = await refusal(second, mode);
      expect(error.code).toBe('IN_USE');
      expect(error.message).toContain('this process has it open already');
    }
    expect(lockedByOthers(image)).toBe(true);
    await device.close();
    await (await open(second)).device.close();
  });

  test('of two openings at the same time one wins', async () => {
    const image = temporaryImage();
    const outcomes = await Promise.allSettled([open(image), open(image)]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(lockedByOthers(image)).toBe(true);
  });

  test('keeps its lock when another path is renamed to it just while that is being opened', async () => {
    const image = temporaryImage();
    await open(image);
    const other = path.join(path.dirname(image), 'other');
    fs.writeFileSync(other, 'other');
    const opening = refusal(other);
    vi.spyOn(fs, 'open').mockImplementationOnce((...args: Parameters<typeof fs.open>) => {
      fs.unlinkSync(other);
      fs.linkSync(image, other);
      fs.open(...args);
    });
    const error = await opening;
    expect(error.code).toBe('CANNOT_OPEN');
    expect(error.message).toContain('it was replaced while being opened');
    expect(lockedByOthers(image)).toBe(true);
  });

  test('can be opened again after a refused opening of something else', async () => {
    const image = temporaryImage();
    await refusal(path.join(path.dirname(image), 'missing'));
    await (await open(image)).device.close();
    await open(image);
  });
});

describe('what is not a regular file that can be written', () => {
  test.each(['write', 'inspect'] as const)('a missing file is refused in mode %s', async (mode) => {
    const missing = temporaryPath('missing');
    const error = await refusal(missing, mode);
    expect(error.code).toBe('CANNOT_OPEN');
    expect(error.message).toBe(`cannot open it: no such file or directory (ENOENT)`);
  });

  test('a directory is refused', async () => {
    const directory = path.dirname(temporaryPath('unused'));
    const error = await refusal(directory);
    expect(error.code).toBe('CANNOT_OPEN');
    expect(error.message).toBe(`it is a directory, not a regular file; give the path of a qcow2 image file`);
  });

  test('a FIFO is refused without waiting for a writer', async (context) => {
    const fifo = temporaryPath('fifo');
    context.skip(spawnSync('mkfifo', [fifo]).status !== 0, 'no mkfifo');
    expect((await refusal(fifo, 'inspect')).message).toContain('it is a FIFO');
  });

  test('a socket is refused', async () => {
    const address = temporaryPath('socket');
    const server = net.createServer().listen(address);
    onTestFinished(() => void server.close());
    await once(server, 'listening');
    expect((await refusal(address)).message).toContain('it is a socket');
  });

  test('a character device is refused', async () => {
    expect((await refusal('/dev/null')).message).toContain('it is a character device');
  });

  test('a link to nowhere is refused', async () => {
    const link = temporaryPath('link');
    fs.symlinkSync('nowhere', link);
    expect((await refusal(link)).code).toBe('CANNOT_OPEN');
  });

  test('a file without write permission is refused for writing, and read without a lock for inspection', async (context) => {
    const image = temporaryImage('abc');
    fs.chmodSync(path.dirname(image), 0o755);
    fs.chmodSync(image, 0o444);
    // Permissions do not bind the superuser.
    const superuser = process.geteuid?.() === 0;
    if (superuser) process.seteuid?.(65534);
    onTestFinished(() => {
      if (superuser) process.seteuid?.(0);
    });
    context.skip(canWrite(image), 'cannot give up the superuser here');
    const error = await refusal(image);
    expect(error.code).toBe('CANNOT_OPEN');
    expect(error.message).toBe(
      `cannot open it for writing: permission denied (EACCES); the file and its file system must be writable`,
    );
    const { device, readOnly, locked } = await open(image, 'inspect');
    expect([readOnly, locked]).toEqual([true, false]);
    const target = new Uint8Array(3);
    await device.read(target, 0);
    expect(new TextDecoder().decode(target)).toBe('abc');
    await expect(device.write(target, 0)).rejects.toMatchObject({ code: 'EBADF' });
  });
});

describe('a host without file locks', () => {
  test('is refused in one line', async () => {
    vi.mocked(hostCalls.hasFileLocks).mockReturnValue(false);
    const error = await refusal(temporaryImage());
    expect(error.code).toBe('PLATFORM');
    expect(error.message).toContain('this platform has no usable file locks');
    expect(error.message).not.toContain('\n');
  });

  test('a file system without locks is refused, and the file can be tried again', async () => {
    const image = temporaryImage();
    vi.mocked(hostCalls.lockWholeFile).mockRejectedValueOnce(
      Object.assign(new Error('ENOLCK, No locks available'), { code: 'ENOLCK' }),
    );
    const error = await refusal(image);
    expect(error.code).toBe('PLATFORM');
    expect(error.message).toContain('ENOLCK, No locks available');
    await open(image);
  });
});

function canWrite(image: string): boolean {
  try {
    // Not access(2), which asks about the real user.
    fs.closeSync(fs.openSync(image, 'r+'));
    return true;
  } catch {
    return false;
  }
}
