/**
 * Passes everything to another device and fails the k-th operation, so that a test can walk through every k.
 * The errors look like Node's own.
 */

import type { BlockDevice } from './block-device.js';
import { ForwardingDevice } from './forwarding-device.js';
import { systemError } from '../system-error.js';

export type OperationKind = 'read' | 'write' | 'flush' | 'truncate' | 'punch' | 'share';

export interface Fault {
  /** Which of the counted operations fails, from 1; undefined only counts. */
  failAt?: number;
  /** Kinds that are counted and may fail; default all. */
  kinds?: readonly OperationKind[];
  /** `EIO`, `ENOSPC`, ...; default `EIO`. */
  code?: string;
  /** `short`: a write first writes its first half, rounded down to 512 bytes. Default `fail`: nothing happens. */
  mode?: 'fail' | 'short';
  /** `sticky`: everything counted after the first failure fails as well. Default `once`. */
  repeat?: 'once' | 'sticky';
}

const SYSCALLS: Record<OperationKind, string> = {
  read: 'read',
  write: 'write',
  flush: 'fdatasync',
  truncate: 'ftruncate',
  punch: 'fallocate',
  share: 'ioctl',
};

export class FaultDevice extends ForwardingDevice {
  /** Counted operations so far, failed ones included. */
  operations = 0;
  /** How many of them failed. */
  failures = 0;

  readonly #fault: Fault;

  constructor(inner: BlockDevice, fault: Fault = {}) {
    super(inner);
    this.#fault = fault;
  }

  override read(target: Uint8Array, offset: number): Promise<void> {
    return this.#fails('read') ? this.#failure('read') : this.inner.read(target, offset);
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    if (!this.#fails('write')) return this.inner.write(source, offset);
    const written = this.#fault.mode === 'short' ? Math.floor(source.length / 2 / 512) * 512 : 0;
    if (written > 0) await this.inner.write(source.subarray(0, written), offset);
    return this.#failure('write');
  }

  override flush(): Promise<void> {
    return this.#fails('flush') ? this.#failure('flush') : this.inner.flush();
  }

  override truncate(lengthBytes: number): Promise<void> {
    return this.#fails('truncate') ? this.#failure('truncate') : this.inner.truncate(lengthBytes);
  }

  override punch(offset: number, lengthBytes: number): Promise<void> {
    return this.#fails('punch') ? this.#failure('punch') : this.inner.punch(offset, lengthBytes);
  }

  override async share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    if (!this.#fails('share')) return this.inner.share(from, to, lengthBytes);
    const shared = this.#fault.mode === 'short' ? Math.floor(lengthBytes / 2 / 512) * 512 : 0;
    if (shared > 0) await this.inner.share(from, to, shared);
    return this.#failure('share');
  }

  #fails(kind: OperationKind): boolean {
    const { failAt, kinds, repeat } = this.#fault;
    if (kinds !== undefined && !kinds.includes(kind)) return false;
    this.operations += 1;
    if (failAt === undefined) return false;
    return repeat === 'sticky' ? this.operations >= failAt : this.operations === failAt;
  }

  #failure(kind: OperationKind): Promise<never> {
    this.failures += 1;
    return Promise.reject(systemError(this.#fault.code ?? 'EIO', SYSCALLS[kind]));
  }
}
