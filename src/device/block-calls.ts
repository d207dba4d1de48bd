/**
 * What a host's file system does with blocks: giving them back, and letting two places of a file share them. Called
 * through koffi; synchronous, since its asynchronous calls lose errno, and so in bounded pieces.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { lazyModule } from './lazy-module.js';
import { errnoName, systemError } from '../system-error.js';

interface Koffi {
  load(library: null): { func(prototype: string): unknown };
  errno(): number;
}

type Fallocate = (fd: number, mode: number, offset: number, lengthBytes: number) => number;
type Ioctl = (fd: number, request: number, argument: Uint8Array) => number;

export const koffi = lazyModule<Koffi>('koffi');

const FALLOC_FL_KEEP_SIZE = 0x01;
const FALLOC_FL_PUNCH_HOLE = 0x02;

/** One call blocks the event loop, so it covers no more than this. */
const PUNCH_PIECE_BYTES = 64 * 1024 * 1024;

let fallocate: Fallocate | null | undefined;

function loadFallocate(): Fallocate | null {
  return load<Fallocate>('int fallocate(int fd, int mode, int64_t offset, int64_t len)');
}

/** A function of the C library; null where there is none, or where it would be called wrongly. */
export function load<F>(prototype: string): F | null {
  if (process.platform !== 'linux') return null;
  // Where off_t has 32 bits the prototypes would be wrong.
  if (['arm', 'ia32', 'mips', 'mipsel'].includes(process.arch)) return null;
  try {
    return (koffi()?.load(null).func(prototype) as F | undefined) ?? null;
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

/** _IOW(0x94, 13, struct file_clone_range), on all but a few architectures. */
const FICLONERANGE = 0x4020940d;
const OTHER_IOCTL_NUMBERS = ['ppc', 'ppc64', 'mips', 'mipsel'];

/** One call blocks the event loop, so it covers no more than this. */
const SHARE_PIECE_BYTES = 64 * 1024 * 1024;

let ioctl: Ioctl | null | undefined;

function loadIoctl(): Ioctl | null {
  if (OTHER_IOCTL_NUMBERS.includes(process.arch)) return null;
  return load<Ioctl>('int ioctl(int fd, unsigned long request, void *argument)');
}

/** Shares once; returns the name of the errno, or null for success. */
function shareOnce(fd: number, from: number, to: number, lengthBytes: number): string | null {
  ioctl ??= loadIoctl();
  const loaded = koffi();
  if (ioctl === null || loaded === null) return 'EOPNOTSUPP';
  const range = new BigInt64Array([BigInt(fd), BigInt(from), BigInt(lengthBytes), BigInt(to)]);
  for (;;) {
    if (ioctl(fd, FICLONERANGE, new Uint8Array(range.buffer)) === 0) return null;
    const name = errnoName(loaded.errno());
    if (name !== 'EINTR') return name;
  }
}

/**
 * Asks the host to share a block with itself, which it refuses either way: as impossible, or as senseless. Changes
 * nothing.
 */
export function canShare(fd: number, blockBytes: number): boolean {
  return shareOnce(fd, 0, 0, blockBytes) === 'EINVAL';
}

/** Lets [to, to + lengthBytes) have the blocks of [from, from + lengthBytes): all of them multiples of a block. */
export async function shareRange(fd: number, from: number, to: number, lengthBytes: number): Promise<void> {
  for (let at = 0; at < lengthBytes; at += SHARE_PIECE_BYTES) {
    if (at > 0) await nextTurn();
    const failure = shareOnce(fd, from + at, to + at, Math.min(SHARE_PIECE_BYTES, lengthBytes - at));
    if (failure !== null) throw systemError(failure, 'ioctl');
  }
}
