/**
 * Opens an image file for this process alone (I7): one descriptor per file, locked against QEMU and against other
 * compactions before anything is read from it. Fails with CANNOT_OPEN, IN_USE or PLATFORM.
 */

import fs from 'node:fs';
import { QcowError } from '../errors.js';
import { FileDevice } from './file-device.js';
import { hasFileLocks, lockWholeFile } from './host-calls.js';
import { hasReaderLocks, lockAsReader } from './reader-lock.js';
import { errorCode, systemReason } from '../system-error.js';

/** `write` needs a file that can be written and locked; `inspect` also takes one that can only be read. */
export type OpenMode = 'write' | 'inspect';

export interface OpenedImage {
  device: FileDevice;
  /** The descriptor cannot write: no permission, or a read-only file system. */
  readOnly: boolean;
  /** Nobody else can open the image while it is open here; false exactly where `readOnly` is true. */
  locked: boolean;
}

/**
 * Files that this process has open, by device and inode. A second descriptor of one of them must not even be
 * opened, since closing it drops the first one's lock. Each holds the descriptors to close along with it.
 */
const openFiles = new Map<string, number[]>();

function requireLocks(): void {
  if (hasFileLocks()) return;
  throw new QcowError('PLATFORM', 'this platform has no usable file locks', {
    hint:
      process.platform === 'win32'
        ? 'run it on Linux or macOS'
        : 'the package fs-ext is missing or was not built; reinstall with a C++ compiler at hand',
  });
}

/** A file that is only read, by others as well: nobody can open it for writing meanwhile. */
export interface SharedFile {
  device: FileDevice;
  /** The same for every name of the file. */
  key: string;
}

/** Opens a file for reading, locked as QEMU locks what it reads. */
export async function openSharedFile(path: string): Promise<SharedFile> {
  requireLocks();
  const key = fileKey(await statFile(path));
  const isShared = hasReaderLocks();
  // Closing a descriptor of a file that is locked here the other way would drop that lock.
  if (openFiles.has(key)) throw inUse('this process has it open already');
  if (!isShared) openFiles.set(key, []);
  let fd: number | undefined;
  try {
    fd = (await openReadOnly(path)).fd;
    requireSameFile(key, fd);
    await takeLock(() => (isShared ? lockAsReader(fd!) : lockWholeFile(fd!, 'read')));
    return { device: new FileDevice(fd, path, { onClose: () => isShared || release(key) }), key };
  } catch (error) {
    if (fd !== undefined) discard(isShared ? null : key, fd);
    if (!isShared) release(key);
    throw error;
  }
}

export async function openImageFile(path: string, options: { mode: OpenMode }): Promise<OpenedImage> {
  requireLocks();
  const found = await statFile(path);
  const key = fileKey(found);
  // From here to `set` there is no await: two calls at the same time cannot both pass.
  if (openFiles.has(key)) throw inUse('this process has it open already');
  openFiles.set(key, []);
  let fd: number | undefined;
  try {
    const opened = await openFile(path, options.mode);
    fd = opened.fd;
    requireSameFile(key, fd);
    if (!opened.readOnly) await takeLock(() => lockWholeFile(opened.fd));
    const device = new FileDevice(fd, path, { onClose: () => release(key) });
    return { device, readOnly: opened.readOnly, locked: !opened.readOnly };
  } catch (error) {
    if (fd !== undefined) discard(key, fd);
    release(key);
    throw error;
  }
}

/** Not by fs.promises, which takes a millisecond to load. */
function stat(path: string): Promise<fs.BigIntStats> {
  return new Promise((resolve, reject) => {
    fs.stat(path, { bigint: true }, (error, found) => (error === null ? resolve(found) : reject(error)));
  });
}

/** Follows symbolic links; refuses everything but regular files, before opening, which a FIFO would answer by waiting. */
async function statFile(path: string): Promise<fs.BigIntStats> {
  let found: fs.BigIntStats;
  try {
    found = await stat(path);
  } catch (error) {
    throw new QcowError('CANNOT_OPEN', `cannot open it: ${systemReason(error)}`, { cause: error });
  }
  if (found.isFile()) return found;
  throw new QcowError('CANNOT_OPEN', `it is ${kindOf(found)}, not a regular file`, {
    hint: found.isBlockDevice()
      ? 'a block device cannot be shortened, so there is nothing to gain'
      : 'give the path of a qcow2 image file',
  });
}

function kindOf(found: fs.BigIntStats): string {
  if (found.isDirectory()) return 'a directory';
  if (found.isFIFO()) return 'a FIFO';
  if (found.isSocket()) return 'a socket';
  if (found.isBlockDevice()) return 'a block device';
  return 'a character device';
}

async function openFile(path: string, mode: OpenMode): Promise<{ fd: number; readOnly: boolean }> {
  try {
    return { fd: await openDescriptor(path, fs.constants.O_RDWR), readOnly: false };
  } catch (error) {
    const code = errorCode(error);
    const cannotWrite = code === 'EACCES' || code === 'EROFS' || code === 'EPERM';
    if (mode === 'inspect' && cannotWrite) return openReadOnly(path);
    throw new QcowError('CANNOT_OPEN', `cannot open it for writing: ${systemReason(error)}`, {
      ...(cannotWrite && { hint: 'the file and its file system must be writable' }),
      cause: error,
    });
  }
}

async function openReadOnly(path: string): Promise<{ fd: number; readOnly: boolean }> {
  try {
    return { fd: await openDescriptor(path, fs.constants.O_RDONLY), readOnly: true };
  } catch (error) {
    throw new QcowError('CANNOT_OPEN', `cannot open it: ${systemReason(error)}`, { cause: error });
  }
}

/** A bare number: a FileHandle would close itself, and drop the lock, when it is garbage collected. */
function openDescriptor(path: string, flags: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.open(path, flags, (error, fd) => (error ? reject(error) : resolve(fd)));
  });
}

/** The path may have been renamed over between the look at it and the opening. */
function requireSameFile(key: string, fd: number): void {
  const opened = fs.fstatSync(fd, { bigint: true });
  if (opened.isFile() && fileKey(opened) === key) return;
  throw new QcowError('CANNOT_OPEN', `cannot open it: it was replaced while being opened`, {
    hint: 'try again when nothing else changes it',
  });
}

async function takeLock(lock: () => Promise<void>): Promise<void> {
  try {
    await lock();
  } catch (error) {
    const code = errorCode(error);
    if (code === 'EAGAIN' || code === 'EACCES')
      throw inUse('image is in use by another process (a running VM?)', error);
    throw new QcowError('PLATFORM', `cannot lock it: ${systemReason(error)}`, {
      hint: 'its file system must support POSIX file locks',
      cause: error,
    });
  }
}

function inUse(what: string, cause?: unknown): QcowError {
  return new QcowError('IN_USE', `cannot open it: ${what}`, {
    hint: 'close what uses it, then try again',
    cause,
  });
}

/** Closes a descriptor that is not needed, unless its file is another one that this process has locked. */
function discard(key: string | null, fd: number): void {
  const actual = fileKey(fs.fstatSync(fd, { bigint: true }));
  const holder = actual === key ? undefined : openFiles.get(actual);
  if (holder === undefined) fs.closeSync(fd);
  else holder.push(fd);
}

function release(key: string): void {
  for (const fd of openFiles.get(key) ?? []) fs.closeSync(fd);
  openFiles.delete(key);
}

function fileKey(found: fs.BigIntStats): string {
  return `${String(found.dev)}:${String(found.ino)}`;
}
