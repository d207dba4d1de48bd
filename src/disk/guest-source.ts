/** A disk that can be read: an image, or what it is based on. */
import type { BlockDevice } from '../device/block-device.js';

/** A stretch of the disk of which the same holds. */
export interface Status {
  lengthBytes: number;
  /** Some file of the chain has room for it. */
  isAllocated: boolean;
  /** It is known to read as zeroes. */
  isZero: boolean;
}

export interface GuestSource {
  readonly sizeBytes: number;
  /** Fills `target` from `offset`; what lies beyond the end of the disk reads as zeroes. */
  read(target: Uint8Array, offset: number): Promise<void>;
  /** Of the stretch that begins at `offset`, at most `lengthBytes` long, and within the disk. */
  status(offset: number, lengthBytes: number): Promise<Status>;
  close(): Promise<void>;
}

/** A file that is the disk, byte for byte. */
export class RawSource implements GuestSource {
  readonly #device: BlockDevice;

  constructor(device: BlockDevice) {
    this.#device = device;
  }

  get sizeBytes(): number {
    return this.#device.lengthBytes;
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    return this.#device.read(target, offset);
  }

  status(offset: number, lengthBytes: number): Promise<Status> {
    const data = this.#device.dataExtent(offset, offset + lengthBytes);
    const hole = data === null ? lengthBytes : data.start - offset;
    const status =
      hole > 0
        ? { lengthBytes: hole, isAllocated: false, isZero: true }
        : { lengthBytes: data!.end - offset, isAllocated: true, isZero: false };
    return Promise.resolve(status);
  }

  close(): Promise<void> {
    return this.#device.close();
  }
}

/** Reads what `source` has; a disk that grew over a shorter one reads as zeroes behind its end. */
export async function readWithin(
  source: GuestSource | null,
  target: Uint8Array,
  offset: number,
): Promise<void> {
  const inside = source === null ? 0 : Math.max(0, Math.min(target.length, source.sizeBytes - offset));
  if (inside < target.length) target.fill(0, inside);
  if (inside > 0) await source!.read(inside === target.length ? target : target.subarray(0, inside), offset);
}
