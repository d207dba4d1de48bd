/** The files that an image is based on: opened for reading, down to the last one. */
import path from 'node:path';
import type { BlockDevice } from '../device/block-device.js';
import { openSharedFile } from '../device/open-image.js';
import { QcowError } from '../errors.js';
import { EXTENSION, parseExtensions } from '../format/header.js';
import { type Image, openImage } from '../image/image.js';
import { requireSound, walk } from '../image/walk.js';
import { RangeLocks } from '../recycler/locks.js';
import { geometryOf } from './geometry.js';
import { type GuestSource, RawSource } from './guest-source.js';
import { Qcow2Source } from './qcow2-source.js';
import { requireReadable } from './refusals.js';
import { Tables } from './tables.js';

/** More is no chain that anybody made on purpose. */
const MOST_FILES = 200;

/** A file of the chain. */
export interface BackingFile {
  device: BlockDevice;
  /** The same for every name of one file; two files of a chain have different ones. */
  key: string;
  /** What the names that the file itself has are relative to. */
  path: string;
}

/** Finds the file that an image calls `name`; `from`: the image's own path. */
export type FindBacking = (name: string, from: string) => Promise<BackingFile>;

/** What one file of a chain says of the next one. */
interface Reference {
  name: string;
  format: string | null;
}

export interface ChainOptions {
  find: FindBacking;
  cacheBytes: number;
}

/** In the file system, as QEMU looks for it. */
export async function findBackingFile(name: string, from: string): Promise<BackingFile> {
  const plain = name.startsWith('file:') ? name.slice('file:'.length) : name;
  // As QEMU tells a protocol from a path: by a colon before the first slash.
  if (/^[^/]*:/.test(plain)) {
    throw new QcowError('UNSUPPORTED', `it is not a file but ${JSON.stringify(name)}`);
  }
  const found = path.resolve(path.dirname(from), plain);
  const { device, key } = await openSharedFile(found);
  return { device, key, path: found };
}

/** What `image` is based on, with all that this is based on; null where the image stands alone. */
export async function openBacking(
  image: Pick<Image, 'device' | 'header'>,
  imagePath: string,
  options: ChainOptions,
  seen: readonly string[],
): Promise<GuestSource | null> {
  const reference = await referenceOf(image);
  if (reference === null) return null;
  const { name, format } = reference;
  try {
    if (seen.length > MOST_FILES)
      throw new QcowError('UNSUPPORTED', `the chain has more than ${MOST_FILES} files`);
    if (format !== 'raw' && format !== 'qcow2') throw unknownFormat(format);
    const file = await options.find(name, imagePath);
    try {
      if (seen.includes(file.key))
        throw new QcowError('CORRUPT', 'the chain leads back to a file that is in it already');
      if (format === 'raw') return new RawSource(file.device);
      return await openLayer(file, options, [...seen, file.key]);
    } catch (error) {
      await file.device.close();
      throw error;
    }
  } catch (error) {
    throw inBacking(name, error);
  }
}

async function openLayer(
  file: BackingFile,
  options: ChainOptions,
  seen: readonly string[],
): Promise<GuestSource> {
  const image = await openImage(file.device);
  requireReadable(image);
  requireSound(await walk(image));
  const backing = await openBacking(image, file.path, options, seen);
  try {
    const locks = new RangeLocks();
    const geometry = geometryOf(image.header);
    const tables = await Tables.open(file.device, locks, geometry, image.header, options.cacheBytes);
    return new Qcow2Source(file.device, image.header, tables, locks, backing);
  } catch (error) {
    await backing?.close();
    throw error;
  }
}

async function referenceOf({ device, header }: Pick<Image, 'device' | 'header'>): Promise<Reference | null> {
  const { backingFileOffset, backingFileBytes, clusterBytes } = header;
  if (backingFileOffset === 0 || backingFileBytes === 0) return null;
  const cluster0 = new Uint8Array(Math.min(device.lengthBytes, clusterBytes));
  await device.read(cluster0, 0);
  const extension = parseExtensions(cluster0, header).find(({ type }) => type === EXTENSION.backingFormat);
  const text = (at: number, lengthBytes: number) =>
    new TextDecoder('utf-8', { fatal: true }).decode(cluster0.subarray(at, at + lengthBytes));
  try {
    return {
      name: text(backingFileOffset, backingFileBytes),
      format: extension === undefined ? null : text(extension.dataAt, extension.dataBytes),
    };
  } catch (error) {
    throw new QcowError('UNSUPPORTED', 'the name of the backing file is not UTF-8', { cause: error });
  }
}

/** Never by what the file looks like: a guest could make its raw disk look like an image that names any file of the host. */
function unknownFormat(format: string | null): QcowError {
  const what =
    format === null
      ? 'the image does not say which format it has'
      : `its format is ${JSON.stringify(format)}`;
  return new QcowError('UNSUPPORTED', `${what}; raw and qcow2 are handled`, {
    hint: '`qemu-img rebase -u -b FILE -F FORMAT IMAGE` says it',
  });
}

/** The first line of a chain says which file; those above have said theirs. */
function inBacking(name: string, error: unknown): unknown {
  if (!(error instanceof QcowError)) return error;
  return new QcowError(error.code, `backing file ${JSON.stringify(name)}: ${error.message}`, {
    cause: error,
  });
}
