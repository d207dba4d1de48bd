/**
 * Where the structures of a qcow2 image are, as its header and snapshot table say. Part of the test
 * oracle: written from the specification alone, shares no code with the product, and never throws on
 * a damaged image.
 */

import { isKnownHeader } from './luks.js';
import { readBitmaps, type BitmapsLayout } from './oracle-bitmaps.js';

/** One entry of the snapshot table, and the L1 table that it names. */
export interface SnapshotLayout {
  /** Bytes from the start of the snapshot table. */
  readonly start: number;
  /** Bytes from the start of the snapshot table, without the padding to 8. */
  readonly end: number;
  readonly l1Offset: number;
  readonly l1Size: number;
  readonly extraSize: number;
  readonly id: string;
  readonly name: string;
}

export interface ImageLayout {
  /** The file, filled up with zeroes to whole clusters: what is past the end reads as zeroes. */
  readonly image: Buffer;
  readonly view: DataView;
  readonly fileLength: number;
  readonly version: number;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly clusterCount: number;
  /** 16 where they are extended: then the second word is a bitmap of subclusters. */
  readonly l2EntrySize: 8 | 16;
  /** L2 entries name offsets in another file. */
  readonly dataFile: boolean;
  /** Encrypted with LUKS: data can only be read where they are, and so can this region. */
  readonly encryptionHeader: { readonly offset: number; readonly length: number } | null;
  /** Its key is that of test/support/luks.ts: data can be decrypted, and so encrypted anew at another place. */
  readonly hasKnownKey: boolean;
  readonly virtualSize: number;
  readonly l1Offset: number;
  readonly l1Size: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly refcountOrder: number;
  /** Of compressed clusters: 0 is zlib, 1 zstd. */
  readonly compressionType: number;
  readonly snapshotsOffset: number;
  readonly snapshotsLength: number;
  readonly snapshots: readonly SnapshotLayout[];
  readonly bitmaps: BitmapsLayout | null;
  /** What is wrong with the header or the snapshot table. */
  readonly faults: readonly string[];
}

const MAGIC = 0x514649fb;
const MAX_SNAPSHOTS = 65536;
const ENCRYPTION_HEADER = 0x0537be77;
const BITMAPS = 0x23852875;
const DATA_FILE = 0b100;
const EXTENDED_L2 = 0b10000;
/** Incompatible feature bits that the oracle knows how to read: these and the compression type. */
const COMPRESSION_TYPE = 0b1000;
const READABLE_FEATURES = COMPRESSION_TYPE | DATA_FILE | EXTENDED_L2;

/** A string says why the file cannot be read as qcow2 at all. */
export function readLayout(bytes: Uint8Array): ImageLayout | string {
  const raw = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 72 || raw.getUint32(0) !== MAGIC) {
    return 'header: not a qcow2 image';
  }
  const version = raw.getUint32(4);
  if (version !== 2 && version !== 3) {
    return `header: version ${version}`;
  }
  if (version === 3 && bytes.length < 104) {
    return 'header: cut short';
  }
  const clusterBits = raw.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) {
    return `header: cluster_bits ${clusterBits}`;
  }
  const refcountOrder = version === 3 ? raw.getUint32(96) : 4;
  if (refcountOrder > 6) {
    return `header: refcount_order ${refcountOrder}`;
  }

  const clusterSize = 2 ** clusterBits;
  const clusterCount = Math.ceil(bytes.length / clusterSize);
  const image = wholeClusters(bytes, clusterCount * clusterSize);
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const faults: string[] = [];
  let compressionType = 0;
  const incompatible = version === 3 ? readOffset(view, 72) : 0;
  const l2EntrySize = (incompatible & EXTENDED_L2) === 0 ? 8 : 16;
  if (l2EntrySize === 16 && clusterBits < 14) {
    faults.push(`header: cluster_bits ${clusterBits} with extended L2 entries`);
  }
  if (version === 3) {
    if (incompatible >= 2 ** 32 || (incompatible & ~READABLE_FEATURES) !== 0) {
      faults.push(`header: incompatible features 0x${incompatible.toString(16)}`);
    }
    const headerLength = view.getUint32(100);
    if (headerLength < 104 || headerLength > clusterSize || headerLength % 8 !== 0) {
      faults.push(`header: header_length ${headerLength}`);
    }
    if (headerLength > 104) {
      compressionType = view.getUint8(104);
    }
    // There is only 0, zlib, and 1, zstd, which has the feature bit that says: not zlib.
    if (compressionType !== ((incompatible & COMPRESSION_TYPE) !== 0 ? 1 : 0)) {
      faults.push(`header: compression type ${compressionType}, incompatible features ${incompatible}`);
    }
  }
  const virtualSize = readOffset(view, 24);
  const l1Size = view.getUint32(36);
  if (l1Size < Math.ceil(virtualSize / (clusterSize * (clusterSize / l2EntrySize)))) {
    faults.push(`header: an L1 table of ${l1Size} entries is too small for ${virtualSize} bytes`);
  }
  const snapshotCount = view.getUint32(60);
  const snapshotsOffset = snapshotCount === 0 ? 0 : readOffset(view, 64);
  const table = readSnapshotTable(view, snapshotsOffset, snapshotCount, faults);
  const encryptionHeader = readEncryptionHeader(view, faults);
  return {
    image,
    view,
    fileLength: bytes.length,
    version,
    clusterBits,
    clusterSize,
    clusterCount,
    l2EntrySize,
    dataFile: (incompatible & DATA_FILE) !== 0,
    encryptionHeader,
    hasKnownKey: encryptionHeader !== null && isKnownHeader(image, encryptionHeader.offset),
    virtualSize,
    l1Offset: readOffset(view, 40),
    l1Size,
    refcountTableOffset: readOffset(view, 48),
    refcountTableClusters: view.getUint32(56),
    refcountOrder,
    compressionType,
    snapshotsOffset,
    snapshotsLength: table.length,
    snapshots: table.snapshots,
    bitmaps: readBitmaps(
      view,
      extensionAt(view, BITMAPS),
      version === 3 && (view.getUint8(95) & 1) === 1,
      faults,
    ),
    faults,
  };
}

/** Whether tables need neighbouring clusters, for which clusters that cannot move may leave no place. */
export function hasLongTables(layout: ImageLayout): boolean {
  const lengths = [layout, ...layout.snapshots].map(({ l1Size }) => l1Size * 8);
  const { directoryLength = 0, bitmaps = [] } = layout.bitmaps ?? {};
  lengths.push(
    layout.snapshotsLength,
    directoryLength,
    ...bitmaps.map(({ tableEntries }) => tableEntries * 8),
  );
  return lengths.some((length) => length > layout.clusterSize);
}

/** The encryption extension, which must be there exactly where the method is LUKS. */
function readEncryptionHeader(view: DataView, faults: string[]): { offset: number; length: number } | null {
  const isLuks = view.getUint32(32) === 2;
  const extension = extensionAt(view, ENCRYPTION_HEADER);
  if (extension !== null && (!isLuks || extension.length !== 16)) {
    faults.push('header: an encryption extension that is not that of LUKS');
    return null;
  }
  if (extension === null) {
    if (isLuks) {
      faults.push('header: LUKS without an encryption extension');
    }
    return null;
  }
  return { offset: readOffset(view, extension.at), length: readOffset(view, extension.at + 8) };
}

/** Where the data of the first header extension of this type are. */
function extensionAt(view: DataView, type: number): { at: number; length: number } | null {
  let at = view.getUint32(4) === 3 ? view.getUint32(100) : 72;
  const end = readOffset(view, 8) === 0 ? 2 ** view.getUint32(20) : readOffset(view, 8);
  while (at + 8 <= end && view.getUint32(at) !== 0) {
    const length = view.getUint32(at + 4);
    if (view.getUint32(at) === type) {
      return { at: at + 8, length };
    }
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return null;
}

/** An unsigned 64-bit number; above 2^53 it is not exact, but still beyond the end of any file. */
export function readOffset(view: DataView, position: number): number {
  return view.getUint32(position) * 0x1_0000_0000 + view.getUint32(position + 4);
}

/** The bytes that a compressed cluster descriptor names. */
export function compressedExtent(
  high: number,
  low: number,
  clusterBits: number,
): { offset: number; length: number } {
  const highOffsetBits = 62 - (clusterBits - 8) - 32;
  const offset = (high & (2 ** highOffsetBits - 1)) * 0x1_0000_0000 + low;
  const extraSectors = (high & 0x3fffffff) >>> highOffsetBits;
  return { offset, length: (extraSectors + 1) * 512 - (offset % 512) };
}

function wholeClusters(bytes: Uint8Array, length: number): Buffer {
  if (bytes.length === length) {
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  const padded = Buffer.alloc(length);
  padded.set(bytes);
  return padded;
}

function readSnapshotTable(
  view: DataView,
  offset: number,
  count: number,
  faults: string[],
): { length: number; snapshots: SnapshotLayout[] } {
  const snapshots: SnapshotLayout[] = [];
  if (count > MAX_SNAPSHOTS) {
    faults.push(`header: ${count} snapshots`);
    return { length: 0, snapshots };
  }
  let length = 0;
  for (let index = 0; index < count; index++) {
    const start = Math.ceil(length / 8) * 8;
    const position = offset + start;
    if (position + 40 > view.byteLength) {
      faults.push(`snapshot table: entry ${index} is beyond the end of the file`);
      break;
    }
    const idSize = view.getUint16(position + 12);
    const nameSize = view.getUint16(position + 14);
    const extraSize = view.getUint32(position + 36);
    const end = start + 40 + extraSize + idSize + nameSize;
    if (extraSize > 1024 || offset + end > view.byteLength) {
      faults.push(`snapshot table: entry ${index} has impossible sizes`);
      break;
    }
    const names = Buffer.from(view.buffer, view.byteOffset + position + 40 + extraSize, idSize + nameSize);
    snapshots.push({
      start,
      end,
      l1Offset: readOffset(view, position),
      l1Size: view.getUint32(position + 8),
      extraSize,
      id: names.toString('latin1', 0, idSize),
      name: names.toString('latin1', idSize),
    });
    length = end;
  }
  return { length, snapshots };
}
