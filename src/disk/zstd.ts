/**
 * Clusters that zstd has compressed: frames one behind the other, until the cluster is full (RFC 8878). The library takes
 * what follows a frame for another one, so that each is handed to it by itself.
 */
import { decompress } from 'fzstd';

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
const BLOCK_HEADER_BYTES = 3;
const RLE = 1;
const RESERVED = 3;
/** The library makes room for it at once. More is asked for by no stream that holds a cluster. */
const MOST_WINDOW_BYTES = 8 << 20;

/** Throws where `extent` does not begin with frames of a cluster's bytes together. */
export function unzstd(extent: Uint8Array, clusterBytes: number): Uint8Array {
  const cluster = new Uint8Array(clusterBytes);
  let from = 0;
  for (let at = 0; at < clusterBytes;) {
    const length = frameLength(extent.subarray(from));
    const bytes = decompress(extent.subarray(from, from + length));
    if (bytes.length === 0 || at + bytes.length > clusterBytes) throw new Error('frames of another length');
    cluster.set(bytes, at);
    at += bytes.length;
    from += length;
  }
  return cluster;
}

/** Of the frame that `bytes` begin with. */
function frameLength(bytes: Uint8Array): number {
  if (MAGIC.some((byte, i) => bytes[i] !== byte)) throw new Error('no zstd frame');
  const flags = byteAt(bytes, MAGIC.length);
  const isSingleSegment = (flags & 0x20) !== 0;
  const hasChecksum = (flags & 0x04) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][flags & 3]!;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][flags >> 6]!;
  let at = MAGIC.length + 1;
  if (!isSingleSegment) {
    const window = byteAt(bytes, at++);
    const base = 2 ** (10 + (window >> 3));
    if (base + (base / 8) * (window & 7) > MOST_WINDOW_BYTES) throw new Error('a window that is too large');
  }
  at += dictionaryBytes;
  requireSize(bytes.subarray(at, at + sizeBytes));
  at += sizeBytes;
  for (;;) {
    const header = byteAt(bytes, at) | (byteAt(bytes, at + 1) << 8) | (byteAt(bytes, at + 2) << 16);
    const type = (header >> 1) & 3;
    if (type === RESERVED) throw new Error('a block of no known kind');
    at += BLOCK_HEADER_BYTES + (type === RLE ? 1 : header >> 3);
    if ((header & 1) !== 0) break;
  }
  if (hasChecksum) at += 4;
  if (at > bytes.length) throw new Error('a frame that is cut off');
  return at;
}

/** `field`: the size of the content, little endian; the library makes room for it. */
function requireSize(field: Uint8Array): void {
  if (field.reduceRight((size, byte) => size * 256 + byte, 0) > MOST_WINDOW_BYTES)
    throw new Error('a content that is too long');
}

function byteAt(bytes: Uint8Array, at: number): number {
  const byte = bytes[at];
  if (byte === undefined) throw new Error('a frame that is cut off');
  return byte;
}
