/**
 * A block device over the one open descriptor of an image file. It never opens the file itself, since closing a
 * second descriptor would drop the POSIX lock (I7); it never uses the descriptor's own position.
 */

import fs from 'node:fs';
import type { BlockDevice, ByteRange } from './block-device.js';
import { canPunch, canShare, punchHole, shareRange } from './block-calls.js';
import { seekData, seekHole } from './host-calls.js';
import { fileSystemKey, reserve, reservedByOthers } from './reservations.js';
import { errorCode, systemError } from '../system-error.js';

type Transfer = (
  fd: number,
  bytes: Uint8Array,
  start: number,
  lengthBytes: number,
  position: number,
  done: (error: NodeJS.ErrnoException | null, transferred: number) => void,
) => void;

type Done = (error: NodeJS.ErrnoException | null) => void;

/** The host calls that a test may replace; the defaults are Node's and `host-calls`. */
export interface FileCalls {
  read: Transfer;
  write: Transfer;
  fdatasync: (fd: number, done: Done) => void;
  ftruncate: (fd: number, lengthBytes: number, done: Done) => void;
  seekData: (fd: number, offset: number) => number | null;
  seekHole: (fd: number, offset: number) => number | null;
  punchHole: (fd: number, offset: number, lengthBytes: number) => Promise<void>;
  canShare: (fd: number, blockBytes: number) => boolean;
  shareRange: (fd: number, from: number, to: number, lengthBytes: number) => Promise<void>;
  statfs: (path: string) => Promise<Pick<fs.StatsFs, 'type' | 'blocks' | 'bavail' | 'bsize'>>;
}

export interface FileDeviceOptions {
  calls?: Partial<FileCalls>;
  /** Called once, after the descriptor is closed. */
  onClose?: () => void;
}

const HOST_CALLS: FileCalls = {
  read: fs.read,
  write: fs.write,
  fdatasync: fs.fdatasync,
  ftruncate: fs.ftruncate,
  seekData,
  seekHole,
  punchHole,
  canShare,
  shareRange,
  statfs: (path) => fs.promises.statfs(path),
};

/** What a host says that does not share blocks, or not these; anything else is a failure. */
const CANNOT_SHARE = new Set([
  'EOPNOTSUPP',
  'ENOTSUP',
  'EINVAL',
  'EXDEV',
  'ENOTTY',
  'ENOSYS',
  'EPERM',
  'ETXTBSY',
  'EBADF',
]);

/** Linux moves at most 2 GiB - 4 KiB in one call. */
const MAX_TRANSFER_BYTES = 1024 * 1024 * 1024;

/** Largest block of a file system on Linux (that of the largest page). */
const MAX_BLOCK_BYTES = 65536;

export class FileDevice implements BlockDevice {
  readonly #fd: number;
  readonly #path: string;
  readonly blockBytes: number;
  readonly #calls: FileCalls;
  readonly #onClose: () => void;
  readonly #inFlight = new Set<Promise<void>>();
  #lengthBytes: number;
  /** Known once it was asked for its room. */
  #fileSystem: string | undefined;
  #canPunch: boolean | undefined;
  #canShare: boolean | undefined;
  #flushFailure: Error | undefined;
  #closing: Promise<void> | undefined;

  /** Takes over `fd`, which is open on a regular file; `path` only asks which file system it is on. */
  constructor(fd: number, path: string, options: FileDeviceOptions = {}) {
    this.#fd = fd;
    this.#path = path;
    this.#calls = { ...HOST_CALLS, ...options.calls };
    this.#onClose = options.onClose ?? (() => undefined);
    const { size, blksize } = fs.fstatSync(fd);
    this.#lengthBytes = size;
    // NFS answers what it likes to transfer at once.
    this.blockBytes = Math.min(blksize, MAX_BLOCK_BYTES);
  }

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** Probed at the first question, so that reading alone never asks the host to change anything. */
  get canPunch(): boolean {
    this.#canPunch ??= canPunch(this.#fd, this.#lengthBytes);
    return this.#canPunch;
  }

  get canShare(): boolean {
    this.#canShare ??= this.#calls.canShare(this.#fd, this.blockBytes);
    return this.#canShare;
  }

  async share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    if (!this.canShare) return false;
    const isWhole = [from, to, lengthBytes].every((bytes) => bytes % this.blockBytes === 0);
    if (!isWhole || from + lengthBytes > this.#lengthBytes) return false;
    let shared = true;
    await this.#change('ioctl', async () => {
      requireOffset(Math.max(from, to), lengthBytes);
      try {
        await this.#calls.shareRange(this.#fd, from, to, lengthBytes);
        this.#lengthBytes = Math.max(this.#lengthBytes, to + lengthBytes);
      } catch (error) {
        if (!CANNOT_SHARE.has(errorCode(error) ?? '')) throw error;
        shared = false;
      }
    });
    this.#canShare = shared;
    return shared;
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    return this.#track('read', async () => {
      requireOffset(offset, target.length);
      let filled = 0;
      while (filled < target.length) {
        const position = offset + filled;
        const transferred = await this.#transfer('read', target, filled, position);
        if (transferred === 0) {
          // Zeroes in place of bytes that someone else cut off would pass for content.
          if (position < this.#lengthBytes) throw systemError('EIO', 'read');
          target.fill(0, filled);
          return;
        }
        filled += transferred;
      }
    });
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    return this.#change('write', async () => {
      requireOffset(offset, source.length);
      let written = 0;
      while (written < source.length) {
        const transferred = await this.#transfer('write', source, written, offset + written);
        if (transferred === 0) throw systemError('EIO', 'write');
        written += transferred;
        this.#lengthBytes = Math.max(this.#lengthBytes, offset + written);
      }
    });
  }

  truncate(lengthBytes: number): Promise<void> {
    return this.#change('ftruncate', async () => {
      requireOffset(lengthBytes, 0);
      // Shorter from now on, so that a read under way does not miss the bytes that go.
      this.#lengthBytes = Math.min(this.#lengthBytes, lengthBytes);
      try {
        await new Promise<void>((resolve, reject) => {
          this.#calls.ftruncate(this.#fd, lengthBytes, (error) => (error ? reject(error) : resolve()));
        });
        this.#lengthBytes = lengthBytes;
      } catch (error) {
        this.#lengthBytes = fs.fstatSync(this.#fd).size;
        throw error;
      }
    });
  }

  punch(offset: number, lengthBytes: number): Promise<void> {
    return this.#change('fallocate', async () => {
      requireOffset(offset, lengthBytes);
      await this.#calls.punchHole(this.#fd, offset, lengthBytes);
    });
  }

  /** After one failure nothing is written or flushed any more: a second fsync may claim a success (C51). */
  flush(): Promise<void> {
    return this.#change('fdatasync', async () => {
      try {
        await new Promise<void>((resolve, reject) => {
          this.#calls.fdatasync(this.#fd, (error) => (error ? reject(error) : resolve()));
        });
      } catch (error) {
        this.#flushFailure ??= error instanceof Error ? error : new Error(String(error));
        throw error;
      }
      if (this.#flushFailure !== undefined) throw this.#flushFailure;
    });
  }

  dataExtent(offset: number, end: number): ByteRange | null {
    const limit = Math.min(end, this.#lengthBytes);
    if (offset >= limit) return null;
    try {
      const start = this.#calls.seekData(this.#fd, offset);
      if (start === null || start >= limit) return null;
      const hole = this.#calls.seekHole(this.#fd, start);
      return { start, end: hole === null ? limit : Math.min(hole, limit) };
    } catch {
      // EINVAL and its like: a host without this search. To call everything data is right on every host.
      return { start: offset, end: limit };
    }
  }

  async freeBytes(): Promise<number> {
    try {
      const host = await this.#calls.statfs(this.#path);
      this.#fileSystem = fileSystemKey(fs.fstatSync(this.#fd).dev, host);
      return Math.max(0, host.bavail * host.bsize - reservedByOthers(this, this.#fileSystem));
    } catch {
      return Infinity;
    }
  }

  /** Counts once \`freeBytes\` has been asked, which tells the file system. */
  reserve(bytes: number): void {
    if (this.#fileSystem !== undefined && this.#closing === undefined) reserve(this, this.#fileSystem, bytes);
  }

  allocatedBytes(): number {
    return fs.fstatSync(this.#fd).blocks * 512;
  }

  /** Waits for what is under way: a write that is still queued would go to whichever file gets the number next. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#inFlight);
    try {
      await new Promise<void>((resolve, reject) => {
        fs.close(this.#fd, (error) => (error ? reject(error) : resolve()));
      });
    } finally {
      if (this.#fileSystem !== undefined) reserve(this, this.#fileSystem, 0);
      this.#onClose();
    }
  }

  #change(syscall: string, work: () => Promise<void>): Promise<void> {
    if (this.#flushFailure !== undefined) return Promise.reject(this.#flushFailure);
    return this.#track(syscall, work);
  }

  async #track(syscall: string, work: () => Promise<void>): Promise<void> {
    if (this.#closing !== undefined) throw systemError('EBADF', syscall);
    const running = work();
    this.#inFlight.add(running);
    try {
      await running;
    } finally {
      this.#inFlight.delete(running);
    }
  }

  #transfer(call: 'read' | 'write', bytes: Uint8Array, start: number, position: number): Promise<number> {
    const lengthBytes = Math.min(bytes.length - start, MAX_TRANSFER_BYTES);
    return new Promise((resolve, reject) => {
      this.#calls[call](this.#fd, bytes, start, lengthBytes, position, (error, transferred) => {
        if (error) reject(error);
        else resolve(transferred);
      });
    });
  }
}

/** Node takes an offset that is no safe integer, or below 0, for "at the descriptor's own position". */
function requireOffset(offset: number, lengthBytes: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0 || !Number.isSafeInteger(offset + lengthBytes)) {
    throw new RangeError(`offset ${String(offset)} with ${String(lengthBytes)} bytes is outside any file`);
  }
}
