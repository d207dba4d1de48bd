/** Buffers of a few lengths, used again: to make one of 256 KiB anew costs as much as to fill it. */

/** What a buffer holds; heads of replies have room beyond it. */
const CLASSES = [4 << 10, 16 << 10, 64 << 10, 256 << 10] as const;
const HEAD_ROOM_BYTES = 1024;
/** Kept for later, of all lengths together. */
const MOST_KEPT_BYTES = 8 << 20;

/** Most that is read or written at a time. */
export const PIECE_BYTES = CLASSES[3];

/** What the buffer for `lengthBytes` counts for in a budget: what it holds, and not what is asked for. */
export function roomFor(lengthBytes: number): number {
  return CLASSES.find((bytes) => lengthBytes <= bytes)!;
}

/** The same of a buffer. */
export function roomOf(buffer: Buffer): number {
  return buffer.length - HEAD_ROOM_BYTES;
}

export class BufferPool {
  readonly #kept: Buffer[][] = CLASSES.map(() => []);
  #keptBytes = 0;

  /** At least `lengthBytes` (at most PIECE_BYTES) and the room for heads. */
  take(lengthBytes: number): Buffer {
    const index = CLASSES.findIndex((bytes) => lengthBytes <= bytes);
    const kept = this.#kept[index]!.pop();
    if (kept === undefined) return Buffer.allocUnsafeSlow(CLASSES[index]! + HEAD_ROOM_BYTES);
    this.#keptBytes -= kept.length;
    return kept;
  }

  give(buffer: Buffer): void {
    if (this.#keptBytes + buffer.length > MOST_KEPT_BYTES) return;
    this.#keptBytes += buffer.length;
    this.#kept[CLASSES.findIndex((bytes) => roomOf(buffer) === bytes)]!.push(buffer);
  }
}
