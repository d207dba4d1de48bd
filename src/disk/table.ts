/** A table of entries in memory as it is on disk, big-endian, with the sectors that are to be written. */
import { SECTOR } from '../device/block-device.js';
import { viewOf } from '../format/words.js';

/** Neighbouring sectors to be written. */
export interface DirtySpan {
  /** Byte position in the table. */
  at: number;
  bytes: Uint8Array;
}

export class Table {
  /** First host cluster: of an L2 table its only one. */
  cluster: number;
  readonly bytes: Uint8Array;
  /** What is being written is not forgotten before it is on disk. */
  isWriting = false;
  /** Who is about to change it: else it could be forgotten before, and the change with it. */
  holders = 0;
  /** Used since the last look at what may be forgotten. */
  isRecent = true;
  readonly #view: DataView;
  readonly #entryBytes: number;
  #dirty: Uint8Array | null = null;

  constructor(cluster: number, bytes: Uint8Array, entryBytes: number) {
    this.cluster = cluster;
    this.bytes = bytes;
    this.#view = viewOf(bytes);
    this.#entryBytes = entryBytes;
  }

  hi(index: number): number {
    return this.#view.getUint32(index * this.#entryBytes);
  }

  lo(index: number): number {
    return this.#view.getUint32(index * this.#entryBytes + 4);
  }

  /** Of an extended entry: which of its parts read as zeroes. */
  zeroBits(index: number): number {
    return this.#view.getUint32(index * this.#entryBytes + 8);
  }

  /** Of an extended entry: which of its parts are data in its cluster. */
  allocatedBits(index: number): number {
    return this.#view.getUint32(index * this.#entryBytes + 12);
  }

  set(index: number, hi: number, lo: number, zero = 0, allocated = 0): void {
    const at = index * this.#entryBytes;
    this.#view.setUint32(at, hi);
    this.#view.setUint32(at + 4, lo);
    if (this.#entryBytes === 16) {
      this.#view.setUint32(at + 8, zero);
      this.#view.setUint32(at + 12, allocated);
    }
    this.#markDirty(Math.floor(at / SECTOR));
  }

  get isDirty(): boolean {
    return this.#dirty !== null;
  }

  /** The sector at byte `position` is to be written. */
  isDirtyAt(position: number): boolean {
    return this.#dirty?.[Math.floor(position / SECTOR)] === 1;
  }

  #markDirty(sector: number): void {
    this.#dirty ??= new Uint8Array(Math.ceil(this.bytes.length / SECTOR));
    this.#dirty[sector] = 1;
  }

  /** Copies of the changed sectors, as they are now; the table is clean from then on. */
  takeDirty(): DirtySpan[] {
    const dirty = this.#dirty;
    this.#dirty = null;
    const spans: DirtySpan[] = [];
    for (let first = dirty?.indexOf(1) ?? -1; first >= 0;) {
      const hole = dirty!.indexOf(0, first);
      const end = hole < 0 ? dirty!.length : hole;
      spans.push({ at: first * SECTOR, bytes: this.bytes.slice(first * SECTOR, end * SECTOR) });
      first = hole < 0 ? -1 : dirty!.indexOf(1, hole);
    }
    return spans;
  }

  /** What could not be written is to be written still. */
  putBack(spans: readonly DirtySpan[]): void {
    for (const { at, bytes } of spans) {
      for (let offset = 0; offset < bytes.length; offset += SECTOR) this.#markDirty((at + offset) / SECTOR);
    }
  }
}
