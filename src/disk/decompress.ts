/** Compressed clusters, as QEMU writes them: a raw deflate stream with a window of 4 KiB, or a zstd frame. */
import zlib from 'node:zlib';
import { QcowError, hex } from '../errors.js';

const ZSTD = 1;

type Done = (error: Error | null, data: Uint8Array) => void;
/** Smaller clusters are unpacked sooner than a thread is asked to. */
const MOST_AT_ONCE_BYTES = 16 << 10;

type Unpack = (bytes: Uint8Array, options: zlib.ZlibOptions, done: Done) => void;

/** Only later versions of Node have it. */
const { zstdDecompress } = zlib as unknown as { zstdDecompress?: Unpack };

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
  try {
    const cluster = await (compressionType === ZSTD
      ? unpackZstd(extent, clusterBytes, place)
      : inflate(extent, clusterBytes));
    if (cluster.length === clusterBytes) return cluster;
  } catch (error) {
    throw error instanceof QcowError ? error : damaged(place, error);
  }
  throw damaged(place);
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

function unpackZstd(extent: Uint8Array, clusterBytes: number, place: number): Promise<Uint8Array> {
  if (zstdDecompress === undefined) {
    throw new QcowError(
      'UNSUPPORTED',
      'a cluster is compressed with zstd, which this version of Node cannot read',
      {
        where: `host offset ${hex(place)}`,
        hint: 'use Node 22.15 or later',
      },
    );
  }
  return new Promise((resolve, reject) => {
    zstdDecompress(extent, { maxOutputLength: clusterBytes }, (error, data) =>
      error === null ? resolve(data) : reject(error),
    );
  });
}

function damaged(place: number, cause?: unknown): QcowError {
  return new QcowError('CORRUPT', 'a compressed cluster cannot be decompressed', {
    where: `host offset ${hex(place)}`,
    cause,
  });
}
