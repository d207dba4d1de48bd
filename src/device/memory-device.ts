/** A file in memory, for tests: holes are known per 512-byte sector, nothing is ever lost, flush does nothing. */

import type { BlockDevice, ByteRange } from './block-device.js';
import { systemError } from '../system-error.js';

const SECTOR_BYTES = 512;

export interface MemoryDeviceOptions {
  /** False: `punch` rejects with EOPNOTSUPP. Default true. */
  canPunch?: boolean;
  /** Default one sector. */
  blockBytes?: number;
  /** True: `share` works, for whole blocks within the file. Default false. */
  canShare?: boolean;
  /** What `freeBytes` answers; default Infinity. */
  freeBytes?: number;
}

export class MemoryDevice implements BlockDevice {
  readonly canPunch: boolean;
  readonly canShare: boolean;
  readonly blockBytes: number;
  readonly #freeBytes: number;
  /** Capacity in whole sectors; everything from `#lengthBytes` on is zero. */
  #content: Uint8Array;
  /** One byte per sector of the capacity: 1 where data was written, 0 for a hole. */
  #allocated: Uint8Array;
  #lengthBytes: number;

  constructor(initial: Uint8Array = new Uint8Array(0), options: MemoryDeviceOptions = {}) {
    const sectorCount = Math.ceil(initial.length / SECTOR_BYTES);
    this.#content = new Uint8Array(sectorCount * SECTOR_BYTES);
    this.#content.set(initial);
    this.#allocated = new Uint8Array(sectorCount).fill(1);
    this.#lengthBytes = initial.length;
    this.canPunch = options.canPunch ?? true;
    this.canShare = options.canShare ?? false;
    this.blockBytes = options.blockBytes ?? SECTOR_BYTES;
    this.#freeBytes = options.freeBytes ?? Infinity;
  }

  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** A copy of the file as it is now. */
  bytes(): Uint8Array {
    return this.#content.slice(0, this.#lengthBytes);
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    target.fill(0);
    if (offset < this.#lengthBytes) {
      target.set(this.#content.subarray(offset, Math.min(offset + target.length, this.#lengthBytes)));
    }
    return Promise.resolve();
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    if (source.length === 0) return Promise.resolve();
    const end = offset + source.length;
    this.#reserve(end);
    this.#content.set(source, offset);
    this.#allocated.fill(1, Math.floor(offset / SECTOR_BYTES), Math.ceil(end / SECTOR_BYTES));
    this.#lengthBytes = Math.max(this.#lengthBytes, end);
    return Promise.resolve();
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  truncate(lengthBytes: number): Promise<void> {
    this.#reserve(lengthBytes);
    if (lengthBytes < this.#lengthBytes) {
      this.#content.fill(0, lengthBytes, this.#lengthBytes);
      this.#allocated.fill(0, Math.ceil(lengthBytes / SECTOR_BYTES));
    }
    this.#lengthBytes = lengthBytes;
    return Promise.resolve();
  }

  dataExtent(offset: number, end: number): ByteRange | null {
    const limit = Math.min(end, this.#lengthBytes);
    if (offset >= limit) return null;
    const first = this.#allocated.indexOf(1, Math.floor(offset / SECTOR_BYTES));
    if (first < 0 || first * SECTOR_BYTES >= limit) return null;
    const hole = this.#allocated.indexOf(0, first);
    return {
      start: Math.max(offset, first * SECTOR_BYTES),
      end: hole < 0 ? limit : Math.min(limit, hole * SECTOR_BYTES),
    };
  }

  punch(offset: number, lengthBytes: number): Promise<void> {
    if (!this.canPunch) return Promise.reject(systemError('EOPNOTSUPP', 'fallocate'));
    const end = Math.min(offset + lengthBytes, this.#lengthBytes);
    if (offset >= end) return Promise.resolve();
    this.#content.fill(0, offset, end);
    const sectors = this.blockBytes / SECTOR_BYTES;
    const firstWhole = Math.ceil(offset / this.blockBytes) * sectors;
    const endWhole =
      end === this.#lengthBytes ? Math.ceil(end / SECTOR_BYTES) : Math.floor(end / this.blockBytes) * sectors;
    if (firstWhole < endWhole) this.#allocated.fill(0, firstWhole, endWhole);
    return Promise.resolve();
  }

  share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    const isWhole = [from, to, lengthBytes].every((bytes) => bytes % this.blockBytes === 0);
    if (!this.canShare || !isWhole || from + lengthBytes > this.#lengthBytes) return Promise.resolve(false);
    this.#reserve(to + lengthBytes);
    this.#content.copyWithin(to, from, from + lengthBytes);
    const first = from / SECTOR_BYTES;
    this.#allocated.copyWithin(to / SECTOR_BYTES, first, first + lengthBytes / SECTOR_BYTES);
    this.#lengthBytes = Math.max(this.#lengthBytes, to + lengthBytes);
    return Promise.resolve(true);
  }

  freeBytes(): Promise<number> {
    return Promise.resolve(this.#freeBytes);
  }

  reserve(): void {
    // Nobody else is there.
  }

  allocatedBytes(): number {
    let sectorCount = 0;
    for (const allocated of this.#allocated) sectorCount += allocated;
    return sectorCount * SECTOR_BYTES;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #reserve(lengthBytes: number): void {
    if (lengthBytes <= this.#content.length) return;
    const sectorCount = Math.ceil(Math.max(lengthBytes, 2 * this.#content.length) / SECTOR_BYTES);
    const content = new Uint8Array(sectorCount * SECTOR_BYTES);
    content.set(this.#content);
    const allocated = new Uint8Array(sectorCount);
    allocated.set(this.#allocated);
    this.#content = content;
    this.#allocated = allocated;
  }
}
