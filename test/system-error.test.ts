import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { errorCode, errnoName, isHostFull, systemError, systemReason } from '../src/system-error.js';

function caught(work: () => void): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe('errors of the host', () => {
  test('are made with the fields that Node gives its own', () => {
    const real = caught(() => fs.closeSync(2 ** 30)) as NodeJS.ErrnoException;
    const { message, code, errno, syscall } = systemError('EBADF', 'close');
    expect({ message, code, errno, syscall }).toEqual({
      message: real.message,
      code: real.code,
      errno: real.errno,
      syscall: real.syscall,
    });
  });

  test('are put into words without call and path', () => {
    const missing = caught(() => fs.statSync('/nonexistent/file'));
    expect(systemReason(missing)).toBe('no such file or directory (ENOENT)');
    expect(systemReason(new Error('something else'))).toBe('something else');
    expect(systemReason('a string')).toBe('a string');
  });

  test('have a code, other errors none', () => {
    expect(errorCode(systemError('EIO', 'read'))).toBe('EIO');
    expect(errorCode(new Error('EIO'))).toBeUndefined();
    expect(errorCode('EIO')).toBeUndefined();
  });

  test('tell a host that is full by any of its limits', () => {
    for (const code of ['ENOSPC', 'EDQUOT', 'EFBIG'])
      expect(isHostFull(systemError(code, 'write'))).toBe(true);
    expect(isHostFull(systemError('EIO', 'write'))).toBe(false);
    expect(isHostFull(new Error('ENOSPC'))).toBe(false);
    expect(isHostFull(null)).toBe(false);
  });

  test('are named by number', () => {
    expect(errnoName(5)).toBe('EIO');
    expect(errnoName(99_999)).toBe('errno 99999');
  });

  test('an unknown code still gives an error', () => {
    expect(systemError('EWEIRD', 'read')).toMatchObject({
      code: 'EWEIRD',
      message: 'EWEIRD: system error, read',
    });
  });
});
