/**
 * Which tables need no reading since the host has nothing there: all their entries are 0. A sparse file can
 * hold a terabyte of such tables; an ordinary image has hardly any, and never asks its host.
 */
import type { BlockDevice } from '../device/block-device.js';
import { isZero } from '../format/words.js';

/**
 * This much in tables without an entry is read all the same (10 ms), so that ordinary images do not depend on
 * what the host says of its holes: OpenZFS before 2.2.2 said it of data just written, and a table taken for
 * empty would make junk of all that it refers to.
 */
const READ_ANYWAY_BYTES = 16 << 20;

export class HoleFinder {
  readonly #device: BlockDevice;
  #zeroBytes = 0;
  /** What the host said last: [from, dataStart) is a hole, [dataStart, dataEnd) is data. */
  #from = 0;
  #dataStart = 0;
  #dataEnd = 0;

  constructor(device: BlockDevice) {
    this.#device = device;
  }

  /** A table, or a piece of one, that has been read. */
  hasRead(table: Uint8Array): void {
    if (this.#zeroBytes <= READ_ANYWAY_BYTES && isZero(table)) this.#zeroBytes += table.length;
  }

  /** True only where all of [offset, offset + length) is known to be a hole. Cheapest in ascending order. */
  isHole(offset: number, lengthBytes: number): boolean {
    if (this.#zeroBytes <= READ_ANYWAY_BYTES) return false;
    if (offset < this.#from || offset >= this.#dataEnd) this.#ask(offset);
    return offset + lengthBytes <= this.#dataStart;
  }

  #ask(offset: number): void {
    const data = this.#device.dataExtent(offset, this.#device.lengthBytes);
    this.#from = offset;
    this.#dataStart = data?.start ?? Infinity;
    this.#dataEnd = data?.end ?? Infinity;
  }
}
