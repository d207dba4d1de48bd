/**
 * The lock of one reader among several, byte by byte as QEMU takes it, so that QEMU may read the file too but neither of
 * both may write to it (QEMU, block/file-posix.c). By open file descriptions: closing another descriptor of the file does
 * not drop it.
 */
import { koffi, load } from './block-calls.js';
import { errnoName, systemError } from '../system-error.js';

type Fcntl = (fd: number, command: number, lock: Uint8Array) => number;

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;

/** A byte for each permission that somebody uses, and one for each that somebody does not let others use. */
const USED = 100;
const UNSHARED = 200;
const PERMISSION = { consistentRead: 0, write: 1, resize: 3 } as const;

let fcntl: Fcntl | null | undefined;

function loadFcntl(): Fcntl | null {
  return load<Fcntl>('int fcntl(int fd, int command, void *lock)');
}

/** Whether this host has such locks. */
export function hasReaderLocks(): boolean {
  fcntl ??= loadFcntl();
  return fcntl !== null;
}

/** struct flock of a host with 64-bit offsets: type, whence, start, length, pid. */
function lockOf(type: number, byte: number): Uint8Array {
  const lock = new Uint8Array(32);
  const words = new BigInt64Array(lock.buffer);
  new Int16Array(lock.buffer)[0] = type;
  words[1] = BigInt(byte);
  words[2] = 1n;
  return lock;
}

function call(fd: number, command: number, lock: Uint8Array): void {
  for (;;) {
    if (fcntl!(fd, command, lock) === 0) return;
    const name = errnoName(koffi()!.errno());
    if (name !== 'EINTR') throw systemError(name, 'fcntl');
  }
}

/** Reads, and shares reading only. Rejects with EAGAIN where somebody may write, or lets nobody read. */
export async function lockAsReader(fd: number): Promise<void> {
  const { consistentRead, write, resize } = PERMISSION;
  for (const byte of [USED + consistentRead, UNSHARED + write, UNSHARED + resize]) {
    call(fd, F_OFD_SETLK, lockOf(F_RDLCK, byte));
  }
  for (const byte of [UNSHARED + consistentRead, USED + write, USED + resize]) {
    const probe = lockOf(F_WRLCK, byte);
    call(fd, F_OFD_GETLK, probe);
    if (new Int16Array(probe.buffer)[0] !== F_UNLCK) throw systemError('EAGAIN', 'fcntl');
  }
}
