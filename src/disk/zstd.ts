/**
 * Clusters that zstd has compressed: frames one behind the other, until the cluster is full (RFC 8878). The decoder is zstd's
 * own, as WebAssembly; it takes what follows a frame for another one, so that each is handed to it by itself.
 */
import { ZSTDDecoder } from 'zstddec';

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
const BLOCK_HEADER_BYTES = 3;
const RLE = 1;

let ready: Promise<ZSTDDecoder> | null = null;

function decoder(): Promise<ZSTDDecoder> {
  const made = new ZSTDDecoder();
  ready ??= made.init().then(() => made);
  return ready;
}

/** Rejects where `extent` does not begin with frames of a cluster's bytes together. */
export async function unzstd(extent: Uint8Array, clusterBytes: number): Promise<Uint8Array> {
  const zstd = await decoder();
  const cluster = new Uint8Array(clusterBytes);
  let from = 0;
  for (let at = 0; at < clusterBytes;) {
    const length = frameLength(extent.subarray(from));
    // No more than there is room for; nothing where it is damaged, or has more.
    const bytes = zstd.decode(extent.subarray(from, from + length), clusterBytes - at);
    if (bytes.length === 0) throw new Error('a frame that is damaged');
    cluster.set(bytes, at);
    at += bytes.length;
    from += length;
  }
  return cluster;
}

/** Of the frame that `bytes` begin with, as its headers tell; what is in it is the decoder's to judge. */
function frameLength(bytes: Uint8Array): number {
  if (MAGIC.some((byte, i) => bytes[i] !== byte)) throw new Error('no zstd frame');
  const flags = byteAt(bytes, MAGIC.length);
  const isSingleSegment = (flags & 0x20) !== 0;
  const hasChecksum = (flags & 0x04) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][flags & 3]!;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][flags >> 6]!;
  let at = MAGIC.length + 1 + (isSingleSegment ? 0 : 1) + dictionaryBytes + sizeBytes;
  for (;;) {
    const header = byteAt(bytes, at) | (byteAt(bytes, at + 1) << 8) | (byteAt(bytes, at + 2) << 16);
    at += BLOCK_HEADER_BYTES + (((header >> 1) & 3) === RLE ? 1 : header >> 3);
    if ((header & 1) !== 0) break;
  }
  if (hasChecksum) at += 4;
  if (at > bytes.length) throw new Error('a frame that is cut off');
  return at;
}

function byteAt(bytes: Uint8Array, at: number): number {
  const byte = bytes[at];
  if (byte === undefined) throw new Error('a frame that is cut off');
  return byte;
}
