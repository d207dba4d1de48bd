/** What a read is answered with: frames of one piece of the disk each, in buffers that hold heads and data together. */
import { type Request, writeDataHead, writeHole } from './transmission-codec.js';
import type { ServedDisk } from './served-disk.js';

/** Shorter stretches of zeroes go as data: to look for them costs more than they do. */
const LEAST_HOLE_BYTES = 32 << 10;

export interface Frame {
  /** Bytes of the buffer that are to be sent. */
  lengthBytes: number;
  /** Where its last chunk begins. */
  lastChunk: number;
}

interface Stretch {
  offset: number;
  lengthBytes: number;
  isZero: boolean;
}

/** Fills `buffer` with the chunks of [offset, offset + length), none of them marked as the last. */
export async function readChunks(
  disk: ServedDisk,
  buffer: Buffer,
  request: Request,
  offset: number,
  lengthBytes: number,
): Promise<Frame> {
  const maySkip = lengthBytes >= LEAST_HOLE_BYTES;
  const stretches = maySkip ? await stretchesOf(disk, offset, lengthBytes) : null;
  if (stretches === null) {
    const at = writeDataHead(buffer, 0, request, { offset, lengthBytes });
    await disk.read(buffer.subarray(at, at + lengthBytes), offset);
    return { lengthBytes: at + lengthBytes, lastChunk: 0 };
  }
  const reads: Promise<void>[] = [];
  let at = 0;
  let lastChunk = 0;
  for (const stretch of stretches) {
    lastChunk = at;
    if (stretch.isZero) at = writeHole(buffer, at, request, stretch);
    else {
      at = writeDataHead(buffer, at, request, stretch);
      reads.push(disk.read(buffer.subarray(at, at + stretch.lengthBytes), stretch.offset));
      at += stretch.lengthBytes;
    }
  }
  // All of them are over when one has failed: the buffer is used again.
  for (const result of await Promise.allSettled(reads)) if (result.status === 'rejected') throw result.reason;
  return { lengthBytes: at, lastChunk };
}

/** Data and holes in turn; null where there is no hole that is worth it. */
async function stretchesOf(disk: ServedDisk, offset: number, lengthBytes: number): Promise<Stretch[] | null> {
  const found: Stretch[] = [];
  for (const { isZero, ...status } of await disk.blockStatus(offset, lengthBytes)) {
    const asHole = isZero && status.lengthBytes >= LEAST_HOLE_BYTES;
    const last = found.at(-1);
    if (last?.isZero === asHole) last.lengthBytes += status.lengthBytes;
    else found.push({ offset: status.offset, lengthBytes: status.lengthBytes, isZero: asHole });
  }
  return found.some(({ isZero }) => isZero) ? found : null;
}
