import fs from 'node:fs';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { FileDevice } from '../../src/device/file-device.js';
import { canPunch, canShare, punchHole } from '../../src/device/block-calls.js';
import { hasFileLocks, lockWholeFile, seekData } from '../../src/device/host-calls.js';
import { temporaryPath } from './temporary-directory.js';

vi.mock('node:module', () => ({
  createRequire: () => (name: string) => {
    throw new Error(`Cannot find module '${name}'`);
  },
}));

function temporaryDescriptor(): { fd: number; path: string } {
  const path = temporaryPath('file');
  const fd = fs.openSync(path, 'w+');
  fs.writeSync(fd, 'content');
  onTestFinished(() => fs.closeSync(fd));
  return { fd, path };
}

describe('a host that lacks the native modules', () => {
  test('has no file locks', async () => {
    expect(hasFileLocks()).toBe(false);
    await expect(lockWholeFile(temporaryDescriptor().fd)).rejects.toMatchObject({ code: 'ENOSYS' });
  });

  test('cannot punch holes, and says so', async () => {
    const { fd } = temporaryDescriptor();
    expect(canPunch(fd, 7)).toBe(false);
    expect(canShare(fd, 4096)).toBe(false);
    await expect(punchHole(fd, 0, 7)).rejects.toMatchObject({ code: 'EOPNOTSUPP', syscall: 'fallocate' });
  });

  test('cannot search for holes, so that everything is data', () => {
    const { fd, path } = temporaryDescriptor();
    expect(() => seekData(fd, 0)).toThrow('ENOSYS');
    expect(new FileDevice(fd, path).dataExtent(1, 100)).toEqual({ start: 1, end: 7 });
  });
});
