/** Bytes of the header cluster and of the snapshot table of a test image. */
import { encodeBitmapsExtension } from './image-bitmaps.js';
import type { ImageFormat, Snapshot } from './image-model.js';
import type { Random } from './random.js';

export interface HeaderExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

export interface HeaderOptions {
  /** Version 3 only, 104 or more; version 2 has 72 bytes. */
  readonly headerLength?: number;
  readonly lazyRefcounts?: boolean;
  /** Adds a feature name table with this many entries. */
  readonly featureNames?: number;
  readonly extensions?: readonly HeaderExtension[];
  readonly backingFile?: string;
  readonly backingFormat?: string;
  /** Of compressed clusters; zstd only in version 3, with a header of 112 bytes. */
  readonly compressionType?: 'zlib' | 'zstd';
  /** 1: legacy AES; 2: LUKS, with a header of three clusters. */
  readonly encryption?: 1 | 2;
  /** The header of LUKS is one that the secret of test/support/luks.ts opens, and data are encrypted. */
  readonly unlockable?: boolean;
  /** Autoclear bit 1, of an external data file. */
  readonly dataFileRaw?: boolean;
}

export interface HeaderFields {
  readonly l1Offset: number;
  readonly l1Size: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly bitmaps: { readonly count: number; readonly offset: number; readonly length: number } | null;
  /** Where the LUKS header is, and its bytes. */
  readonly encryptionHeader: { readonly offset: number; readonly length: number } | null;
}

export const FEATURE_NAMES = 0x6803f857;
export const BITMAPS = 0x23852875;
export const ENCRYPTION_HEADER = 0x0537be77;
export const BACKING_FORMAT = 0xe2792aca;

const KNOWN_FEATURES: readonly (readonly [type: number, bit: number, name: string])[] = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
];

/** `garbage` fills the bytes after everything that means something. */
export function encodeHeader(
  format: ImageFormat,
  options: HeaderOptions,
  fields: HeaderFields,
  garbage: Random | null,
): Uint8Array {
  const headerLength = format.version === 2 ? 72 : (options.headerLength ?? 112);
  const cluster = Buffer.alloc(format.clusterSize);
  cluster.writeUInt32BE(0x514649fb, 0);
  cluster.writeUInt32BE(format.version, 4);
  cluster.writeUInt32BE(format.clusterBits, 20);
  writeOffset(cluster, format.virtualSize, 24);
  cluster.writeUInt32BE(options.encryption ?? 0, 32);
  cluster.writeUInt32BE(fields.l1Size, 36);
  writeOffset(cluster, fields.l1Offset, 40);
  writeOffset(cluster, fields.refcountTableOffset, 48);
  cluster.writeUInt32BE(fields.refcountTableClusters, 56);
  cluster.writeUInt32BE(fields.snapshotCount, 60);
  writeOffset(cluster, fields.snapshotsOffset, 64);
  if (format.version === 3) {
    cluster.writeUInt32BE((format.l2EntrySize === 16 ? 0x10 : 0) + (format.dataFile ? 4 : 0), 76);
    cluster.writeUInt32BE((options.dataFileRaw === true ? 2 : 0) + (fields.bitmaps === null ? 0 : 1), 92);
    cluster.writeUInt32BE(options.lazyRefcounts === true ? 1 : 0, 84);
    cluster.writeUInt32BE(format.refcountOrder, 96);
    cluster.writeUInt32BE(headerLength, 100);
  }
  if (options.compressionType === 'zstd') {
    if (headerLength < 112) {
      throw new Error(`a header of ${headerLength} bytes has no compression type`);
    }
    cluster[79]! |= 1 << 3;
    cluster[104] = 1;
  }

  let end = headerLength;
  for (const { type, data } of allExtensions(options, fields)) {
    const next = end + 8 + Math.ceil(data.length / 8) * 8;
    requireRoom(next, format);
    cluster.writeUInt32BE(type, end);
    cluster.writeUInt32BE(data.length, end + 4);
    cluster.set(data, end + 8);
    end = next;
  }
  // Eight zero bytes end the extensions, unless they fill the cluster.
  end = Math.min(end + 8, format.clusterSize);
  if (options.backingFile !== undefined) {
    const name = Buffer.from(options.backingFile);
    requireRoom(end + name.length, format);
    writeOffset(cluster, end, 8);
    cluster.writeUInt32BE(name.length, 16);
    cluster.set(name, end);
    end += name.length;
  }
  if (garbage !== null) {
    cluster.set(garbage.bytes(format.clusterSize - end), end);
  }
  return cluster;
}

/** Entries as QEMU writes them, each L1 offset given by the caller. */
export function encodeSnapshotTable(
  snapshots: readonly Snapshot[],
  l1Offsets: readonly number[],
): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [index, snapshot] of snapshots.entries()) {
    const id = Buffer.from(snapshot.id);
    const length = 40 + snapshot.extra.length + id.length + snapshot.name.length;
    const isLast = index === snapshots.length - 1;
    const entry = Buffer.alloc(isLast ? length : Math.ceil(length / 8) * 8);
    writeOffset(entry, l1Offsets[index] ?? 0, 0);
    entry.writeUInt32BE(snapshot.l1.size, 8);
    entry.writeUInt16BE(id.length, 12);
    entry.writeUInt16BE(snapshot.name.length, 14);
    entry.writeUInt32BE(1_700_000_000 + index, 16);
    entry.writeUInt32BE(index * 1000, 20);
    writeOffset(entry, index * 1_000_000_007, 24);
    entry.writeUInt32BE(snapshot.vmStateSize, 32);
    entry.writeUInt32BE(snapshot.extra.length, 36);
    entry.set(snapshot.extra, 40);
    entry.set(id, 40 + snapshot.extra.length);
    entry.set(snapshot.name, 40 + snapshot.extra.length + id.length);
    parts.push(entry);
  }
  return Buffer.concat(parts);
}

/** In QEMU's order. */
function allExtensions(
  options: HeaderOptions,
  { encryptionHeader, bitmaps }: HeaderFields,
): HeaderExtension[] {
  const result: HeaderExtension[] = [];
  if (encryptionHeader !== null) {
    const data = Buffer.alloc(16);
    writeOffset(data, encryptionHeader.offset, 0);
    writeOffset(data, encryptionHeader.length, 8);
    result.push({ type: ENCRYPTION_HEADER, data });
  }
  if (options.backingFormat !== undefined) {
    result.push({ type: BACKING_FORMAT, data: Buffer.from(options.backingFormat) });
  }
  if (options.featureNames !== undefined) {
    const table = Buffer.alloc(48 * options.featureNames);
    for (const [index, [type, bit, name]] of KNOWN_FEATURES.slice(0, options.featureNames).entries()) {
      table[index * 48] = type;
      table[index * 48 + 1] = bit;
      table.write(name, index * 48 + 2);
    }
    result.push({ type: FEATURE_NAMES, data: table });
  }
  if (bitmaps !== null) {
    const data = encodeBitmapsExtension(bitmaps.count, bitmaps.length, bitmaps.offset);
    result.push({ type: BITMAPS, data });
  }
  return [...result, ...(options.extensions ?? [])];
}

function requireRoom(end: number, format: ImageFormat): void {
  if (end > format.clusterSize) {
    throw new Error(`the header needs ${end} bytes, a cluster has ${format.clusterSize}`);
  }
}

export function writeOffset(buffer: Buffer, value: number, position: number): void {
  buffer.writeUInt32BE(Math.floor(value / 0x1_0000_0000), position);
  buffer.writeUInt32BE(value % 0x1_0000_0000, position + 4);
}
