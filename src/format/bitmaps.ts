/**
 * Persistent bitmaps (qcow2 specification, "Bitmaps extension" and "Bitmaps"): the header names a directory, each
 * of its entries a table, each entry of a table a cluster of bits. Of all that only offsets ever change.
 */
import { SECTOR } from '../device/block-device.js';
import { QcowError, hex } from '../errors.js';
import { entryOffset } from './entries.js';
import { EXTENSION, type Header, type HeaderExtension } from './header.js';
import { readWord, viewOf } from './words.js';

const EXTENSION_BYTES = 24;
const DIRECTORY_OFFSET_AT = 16;
/** Limits of QEMU, which opens no image beyond them. */
const MAX_BITMAPS = 65535;
const MAX_DIRECTORY_BYTES = 1024 * MAX_BITMAPS;
const MAX_NAME_BYTES = 1023;
const MAX_DATA_BYTES = 512 * 1024 * 1024;
const MIN_GRANULARITY_BITS = 9;
const MAX_GRANULARITY_BITS = 31;

const FIXED_BYTES = 24;
const FLAG = { inUse: 1, auto: 2 } as const;
const TYPE_DIRTY_TRACKING = 1;

/** What the header says of them. */
export interface BitmapDirectory {
  /** Byte position of the field in cluster 0 that holds the directory's offset; not always in its first sector. */
  slot: number;
  offset: number;
  lengthBytes: number;
  bitmapCount: number;
}

export interface BitmapEntry {
  /** Byte position of the entry in the directory; its table's offset is its first field. */
  at: number;
  tableOffset: number;
  tableEntries: number;
  /** It is to note what the guest writes, and has noted all so far. */
  isRecording: boolean;
}

function damaged(what: string, where: string): QcowError {
  return new QcowError('CORRUPT', what, { where, hint: 'the image was left untouched' });
}

/** Null where the image has none. Whether they are consistent is asked elsewhere (features.ts). */
export function bitmapDirectory(
  header: Header,
  extensions: HeaderExtension[],
  cluster0: Uint8Array,
): BitmapDirectory | null {
  const [extension, second] = extensions.filter(({ type }) => type === EXTENSION.bitmaps);
  if (extension === undefined) return null;
  const { dataAt, dataBytes } = extension;
  const fault = (what: string) => damaged(what, `header, byte ${dataAt - 8}`);
  if (second !== undefined) throw fault('the image has more than one bitmaps extension');
  if (dataBytes !== EXTENSION_BYTES)
    throw fault(`the bitmaps extension has ${dataBytes} bytes, not ${EXTENSION_BYTES}`);
  const view = viewOf(cluster0);
  const bitmapCount = view.getUint32(dataAt);
  if (bitmapCount === 0 || bitmapCount > MAX_BITMAPS)
    throw fault(`the bitmaps extension names ${bitmapCount} bitmaps; there are 1 to ${MAX_BITMAPS}`);
  if (view.getUint32(dataAt + 4) !== 0)
    throw fault('the reserved field of the bitmaps extension is not zero');
  const lengthBytes = readWord(view, dataAt + 8);
  if (!(lengthBytes > 0 && lengthBytes <= MAX_DIRECTORY_BYTES))
    throw fault(`the bitmap directory has an impossible length; it is 1 to ${MAX_DIRECTORY_BYTES} bytes`);
  const slot = dataAt + DIRECTORY_OFFSET_AT;
  const offset = readWord(view, slot);
  // NaN, which 2^53 and above reads as, is not aligned either.
  if (offset === 0 || offset % header.clusterBytes !== 0)
    throw fault('the bitmap directory is not at a cluster of the file');
  return { slot, offset, lengthBytes, bitmapCount };
}

/** Parses the whole directory, and throws where QEMU would: what it does not open, nobody has ever checked. */
export function parseBitmapDirectory(
  bytes: Uint8Array,
  { offset, bitmapCount }: BitmapDirectory,
  header: Header,
): BitmapEntry[] {
  const view = viewOf(bytes);
  const entries: BitmapEntry[] = [];
  const where = (at: number) => `bitmap directory at ${hex(offset)}, byte ${at}`;
  let at = 0;
  while (at < bytes.length) {
    const index = entries.length;
    if (index === bitmapCount)
      throw damaged(`the bitmap directory goes on after its ${bitmapCount} bitmaps`, where(at));
    const next = at + FIXED_BYTES > bytes.length ? Infinity : at + entryBytes(view, at);
    if (next > bytes.length) throw damaged(`bitmap ${index} reaches beyond its directory`, where(at));
    requireKnown(view, at, index, where(at));
    const fault = entryFault(view, at, header);
    if (fault !== null) throw damaged(`bitmap ${index} has ${fault}`, where(at));
    const isRecording = (view.getUint32(at + 12) & (FLAG.auto | FLAG.inUse)) === FLAG.auto;
    entries.push({ at, tableOffset: readWord(view, at), tableEntries: view.getUint32(at + 8), isRecording });
    at = next;
  }
  if (entries.length < bitmapCount)
    throw damaged(`the bitmap directory has ${entries.length} bitmaps, not ${bitmapCount}`, where(at));
  return entries;
}

/** Its extra data and name included, padded to 8 bytes. */
function entryBytes(view: DataView, at: number): number {
  const length = FIXED_BYTES + view.getUint32(at + 20) + view.getUint16(at + 18);
  return Math.ceil(length / 8) * 8;
}

/** What a later version of the format may define. */
function requireKnown(view: DataView, at: number, index: number, where: string): void {
  const unknown = (what: string) =>
    new QcowError('UNSUPPORTED', `bitmap ${index} has ${what}, which this version does not handle`, {
      where,
      hint: 'the image was left untouched',
    });
  const extraBytes = view.getUint32(at + 20);
  if (extraBytes !== 0) throw unknown(`${extraBytes} bytes of extra data`);
  const flags = view.getUint32(at + 12);
  if ((flags & ~(FLAG.inUse | FLAG.auto)) !== 0) throw unknown(`the flags ${hex(flags)}`);
  const type = view.getUint8(at + 16);
  if (type !== TYPE_DIRTY_TRACKING) throw unknown(`the type ${type}`);
}

function entryFault(view: DataView, at: number, { clusterBytes, virtualBytes }: Header): string | null {
  const tableOffset = readWord(view, at);
  const tableEntries = view.getUint32(at + 8);
  const granularityBits = view.getUint8(at + 17);
  const nameBytes = view.getUint16(at + 18);
  if (tableOffset === 0 || tableOffset % clusterBytes !== 0)
    return 'a table that is not at a cluster of the file';
  if (tableEntries === 0 || tableEntries * clusterBytes > MAX_DATA_BYTES)
    return `a table of ${tableEntries} entries, which name 1 to ${MAX_DATA_BYTES} bytes`;
  if (granularityBits < MIN_GRANULARITY_BITS || granularityBits > MAX_GRANULARITY_BITS)
    return `a granularity of 2^${granularityBits} bytes; it is 2^9 to 2^31`;
  if (nameBytes === 0 || nameBytes > MAX_NAME_BYTES) return `a name of ${nameBytes} bytes; it is 1 to 1023`;
  // One that was not closed cleanly is not read, and may be as long as the disk was before.
  const isInUse = (view.getUint32(at + 12) & FLAG.inUse) !== 0;
  const bits = Math.ceil((virtualBytes - (virtualBytes % SECTOR)) / 2 ** granularityBits);
  const needed = Math.ceil(Math.ceil(bits / 8) / clusterBytes);
  if (!isInUse && tableEntries !== needed)
    return `a table of ${tableEntries} entries, where the disk needs ${needed}`;
  return null;
}

/** What is wrong with an entry of a bitmap table: an offset, or 0 and a bit that says what all bits are. */
export function bitmapTableFault(hi: number, lo: number): string | null {
  if ((hi & 0xff00_0000) !== 0 || (lo & 0x1fe) !== 0) return 'reserved bits are set in a bitmap table entry';
  if ((lo & 1) !== 0 && entryOffset(hi, lo) !== 0) return 'a bitmap table entry has both a cluster and none';
  return null;
}
