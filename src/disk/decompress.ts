/** Compressed clusters, as QEMU writes them: a raw deflate stream with a window of 4 KiB, or frames of zstd. */
import zlib from 'node:zlib';
import { QcowError, hex } from '../errors.js';
import { unzstd } from './zstd.js';

const ZSTD = 1;
/** Smaller clusters are unpacked sooner than a thread is asked to. */
const MOST_AT_ONCE_BYTES = 16 << 10;

/**
 * The cluster that `extent` holds. What follows the stream in the extent's last sector, mostly the head of a neighbour, is
 * not looked at.
 */
export async function decompress(
  extent: Uint8Array,
  clusterBytes: number,
  compressionType: number,
  place: number,
): Promise<Uint8Array> {
  let cluster: Uint8Array;
  try {
    cluster = await (compressionType === ZSTD ? unzstd : inflate)(extent, clusterBytes);
  } catch (error) {
    throw damaged(place, error);
  }
  if (cluster.length !== clusterBytes) throw damaged(place);
  return cluster;
}

/** The stream need not end where the extent does. */
function inflate(extent: Uint8Array, clusterBytes: number): Uint8Array | Promise<Uint8Array> {
  const options = {
    windowBits: 12,
    finishFlush: zlib.constants.Z_SYNC_FLUSH,
    maxOutputLength: clusterBytes,
    chunkSize: Math.max(64, clusterBytes),
  };
  if (clusterBytes <= MOST_AT_ONCE_BYTES) return zlib.inflateRawSync(extent, options);
  return new Promise((resolve, reject) => {
    zlib.inflateRaw(extent, options, (error, data) => (error === null ? resolve(data) : reject(error)));
  });
}

function damaged(place: number, cause?: unknown): QcowError {
  return new QcowError('CORRUPT', 'a compressed cluster cannot be decompressed', {
    where: `host offset ${hex(place)}`,
    cause,
  });
}
