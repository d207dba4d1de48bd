/**
 * The host calls that Node lacks: whole-file locks and the search for holes (fs-ext), punching holes (koffi).
 * Both native modules are loaded at the first need, so that a host without them runs everything else.
 */

import type * as FsExt from 'fs-ext';
import { createRequire } from 'node:module';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { errnoName, errorCode, systemError } from './system-error.js';

interface Koffi {
  load(library: null): { func(prototype: string): (...args: number[]) => number };
  errno(): number;
}

type Fallocate = (fd: number, mode: number, offset: number, lengthBytes: number) => number;

const require = createRequire(import.meta.url);

/** Loads `name` once; null where it is not installed or does not fit this host. */
function lazyModule<T>(name: string): () => T | null {
  let loaded: T | null | undefined;
  return () => {
    if (loaded === undefined) {
      try {
        loaded = require(name) as T;
      } catch {
        loaded = null;
      }
    }
    return loaded;
  };
}

const fsExt = lazyModule<typeof FsExt>('fs-ext');
const koffi = lazyModule<Koffi>('koffi');

/** True where `lockWholeFile` can work on this host. */
export function hasFileLocks(): boolean {
  return process.platform !== 'win32' && fsExt() !== null;
}

/**
 * Takes a POSIX write lock on the whole file, which conflicts with QEMU's byte locks in both directions (I7).
 * Never waits: rejects with EAGAIN or EACCES where another process holds a lock.
 */
export function lockWholeFile(fd: number): Promise<void> {
  const ext = fsExt();
  if (ext === null) return Promise.reject(systemError('ENOSYS', 'fcntl'));
  return new Promise((resolve, reject) => {
    // Not fcntlSync: that passes the lock type where the kernel expects a struct flock, and fails with EFAULT.
    ext.fcntl(fd, 'setlk', ext.constants.F_WRLCK, (error) => {
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

const FALLOC_FL_KEEP_SIZE = 0x01;
const FALLOC_FL_PUNCH_HOLE = 0x02;

/** One call blocks the event loop, so it covers no more than this. */
const PUNCH_PIECE_BYTES = 64 * 1024 * 1024;

let fallocate: Fallocate | null | undefined;

function loadFallocate(): Fallocate | null {
  if (process.platform !== 'linux') return null;
  // Where off_t has 32 bits the prototype below would be wrong.
  if (['arm', 'ia32', 'mips', 'mipsel'].includes(process.arch)) return null;
  try {
    const library = koffi()?.load(null);
    return library?.func('int fallocate(int fd, int mode, int64_t offset, int64_t len)') ?? null;
  } catch {
    return null;
  }
}

/** Punches once; returns the name of the errno, or null for success. */
function punchOnce(fd: number, offset: number, lengthBytes: number): string | null {
  fallocate ??= loadFallocate();
  const loaded = koffi();
  if (fallocate === null || loaded === null) return 'EOPNOTSUPP';
  for (;;) {
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, lengthBytes) === 0) return null;
    const name = errnoName(loaded.errno());
    if (name !== 'EINTR') return name;
  }
}

/** Asks the host with a hole wholly beyond the end of the file, which changes neither content nor length. */
export function canPunch(fd: number, fileLengthBytes: number): boolean {
  const blockBytes = 4096;
  const beyondEnd = (Math.floor(fileLengthBytes / blockBytes) + 1) * blockBytes;
  return punchOnce(fd, beyondEnd, blockBytes) === null;
}

/** Deallocates [offset, offset + lengthBytes), which reads as zeroes afterwards; the length of the file stays. */
export async function punchHole(fd: number, offset: number, lengthBytes: number): Promise<void> {
  const end = offset + lengthBytes;
  for (let at = offset; at < end; at += PUNCH_PIECE_BYTES) {
    if (at > offset) await nextTurn();
    const failure = punchOnce(fd, at, Math.min(PUNCH_PIECE_BYTES, end - at));
    if (failure !== null) throw systemError(failure, 'fallocate');
  }
}
