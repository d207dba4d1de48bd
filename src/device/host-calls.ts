/** Whole-file locks and the search for holes, which Node lacks: from fs-ext, loaded at the first need. */

import type * as FsExt from 'fs-ext';
import { lazyModule } from './lazy-module.js';
import { errorCode, systemError } from '../system-error.js';

const fsExt = lazyModule<typeof FsExt>('fs-ext');

/** True where `lockWholeFile` can work on this host. */
export function hasFileLocks(): boolean {
  return process.platform !== 'win32' && fsExt() !== null;
}

/**
 * Takes a POSIX lock on the whole file, which conflicts with QEMU's byte locks in both directions (I7); one for reading
 * too, with QEMU's for reading.
 * Never waits: rejects with EAGAIN or EACCES where another process holds a lock.
 */
export function lockWholeFile(fd: number, mode: 'write' | 'read' = 'write'): Promise<void> {
  const ext = fsExt();
  if (ext === null) return Promise.reject(systemError('ENOSYS', 'fcntl'));
  const { F_WRLCK, F_RDLCK } = ext.constants;
  return new Promise((resolve, reject) => {
    // Not fcntlSync: that passes the lock type where the kernel expects a struct flock, and fails with EFAULT.
    ext.fcntl(fd, 'setlk', mode === 'write' ? F_WRLCK : F_RDLCK, (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
}

/** Takes a lock on a folder, which ends with `fd`. Never waits: rejects with EAGAIN where somebody holds it. */
export function lockFolder(fd: number): Promise<void> {
  const ext = fsExt();
  if (ext === null) return Promise.reject(systemError('ENOSYS', 'flock'));
  return new Promise((resolve, reject) => {
    ext.flock(fd, 'exnb', (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
}

// Darwin numbers these two the other way round.
const SEEK_DATA = process.platform === 'darwin' ? 4 : 3;
const SEEK_HOLE = process.platform === 'darwin' ? 3 : 4;

/** Offset of the first data at or after `offset`; null where there is none up to the end of the file. */
export function seekData(fd: number, offset: number): number | null {
  return seek(fd, offset, SEEK_DATA);
}

/** Offset of the first hole at or after `offset` (the end of the file counts as one); null beyond the end. */
export function seekHole(fd: number, offset: number): number | null {
  return seek(fd, offset, SEEK_HOLE);
}

function seek(fd: number, offset: number, whence: number): number | null {
  const ext = fsExt();
  if (ext === null) throw systemError('ENOSYS', 'lseek');
  try {
    return ext.seekSync(fd, offset, whence);
  } catch (error) {
    if (errorCode(error) === 'ENXIO') return null;
    throw error;
  }
}
