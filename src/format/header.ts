/**
 * The qcow2 header and its extensions (qcow2 specification, "Header" and "Header extensions").
 * Pure: bytes in, fields out. Every field is bounded here or by the file's length before it is used (I6).
 */
import { QcowError, hex } from '../errors.js';
import { TWO_32, readWord, viewOf } from './words.js';

export const MAGIC = 0x5146_49fb;
/**
 * Byte positions of the fields that a compaction changes; all lie in the first sector. So does not always the one in
 * the bitmaps extension (bitmaps.ts).
 */
export const L1_OFFSET_AT = 40;
export const REFCOUNT_TABLE_OFFSET_AT = 48;
export const REFCOUNT_TABLE_CLUSTERS_AT = 56;
export const SNAPSHOTS_OFFSET_AT = 64;
export const SNAPSHOT_COUNT_AT = 60;
/** The lower half of the incompatible features; only a repair clears bits of it. */
export const INCOMPATIBLE_LOW_AT = 76;

const MAX_L1_BYTES = 32 * 1024 * 1024;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024;
const MAX_SNAPSHOTS = 65536;

export interface Header {
  version: 2 | 3;
  clusterBits: number;
  clusterBytes: number;
  virtualBytes: number;
  encryption: number;
  l1Entries: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  refcountOrder: number;
  snapshotCount: number;
  snapshotsOffset: number;
  backingFileOffset: number;
  backingFileBytes: number;
  /** Feature bits as [hi, lo] halves. */
  incompatible: readonly [number, number];
  autoclear: readonly [number, number];
  headerBytes: number;
  compressionType: number;
}

export interface HeaderExtension {
  type: number;
  /** Byte position of its data within cluster 0, and its length without padding. */
  dataAt: number;
  dataBytes: number;
}

export const EXTENSION = {
  end: 0,
  backingFormat: 0xe279_2aca,
  featureNames: 0x6803_f857,
  bitmaps: 0x2385_2875,
  encryption: 0x0537_be77,
  dataFile: 0x4441_5441,
} as const;

/** Methods of encryption. AES goes by guest offsets: its clusters can be anywhere. */
export const ENCRYPTION = { none: 0, aes: 1, luks: 2 } as const;

export const AUTOCLEAR = { bitmaps: 1, dataFileRaw: 2 } as const;

export const INCOMPATIBLE = {
  dirty: 1,
  corrupt: 2,
  dataFile: 4,
  compressionType: 8,
  extendedL2: 16,
} as const;

function outOfBounds(field: string, value: number | string, rule: string): QcowError {
  const shown = Number.isNaN(value) ? '2^53 or more' : value;
  return new QcowError('CORRUPT', `header field ${field} is out of bounds: ${shown}; ${rule}`, {
    hint: 'the image is damaged or not a qcow2 file; it was left untouched',
  });
}

/** A table that the header points to: cluster-aligned and wholly inside 2^53. */
function requireAligned(field: string, offset: number, clusterBytes: number): void {
  if (!Number.isFinite(offset) || offset % clusterBytes !== 0) {
    const shown = Number.isFinite(offset) ? hex(offset) : '2^53 or more';
    throw outOfBounds(field, shown, `it must be a multiple of the cluster size ${clusterBytes}`);
  }
}

/** Parses the first bytes of an image: at least 104 of them, unless the file is shorter. */
export function parseHeader(bytes: Uint8Array): Header {
  const view = viewOf(bytes);
  if (bytes.length < 4 || view.getUint32(0) !== MAGIC) {
    throw new QcowError('NOT_QCOW2', 'not a qcow2 image: it does not begin with the qcow2 magic bytes', {
      hint: '`qemu-img info` tells what it is',
    });
  }
  const version = bytes.length < 8 ? 0 : view.getUint32(4);
  if (version === 1) {
    throw new QcowError('NOT_QCOW2', 'a version 1 qcow image, not qcow2', {
      hint: 'convert it with `qemu-img convert -O qcow2`',
    });
  }
  if (version !== 2 && version !== 3) {
    throw new QcowError('UNSUPPORTED', `qcow2 version ${version} is unknown; versions 2 and 3 are handled`);
  }
  if (bytes.length < (version === 2 ? 72 : 104)) {
    throw new QcowError('CORRUPT', 'the file is truncated: it ends within the qcow2 header', {
      hint: 'it was left untouched',
    });
  }
  const clusterBits = view.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) {
    throw outOfBounds('cluster_bits', clusterBits, 'it must be 9 to 21');
  }
  const clusterBytes = 1 << clusterBits;
  const header: Header = {
    version,
    clusterBits,
    clusterBytes,
    // Up to 2^61, where l1_size ends; a multiple of 512, so that a number holds it.
    virtualBytes: view.getUint32(24) * TWO_32 + view.getUint32(28),
    encryption: view.getUint32(32),
    l1Entries: view.getUint32(36),
    l1Offset: readWord(view, L1_OFFSET_AT),
    refcountTableOffset: readWord(view, REFCOUNT_TABLE_OFFSET_AT),
    refcountTableClusters: view.getUint32(REFCOUNT_TABLE_CLUSTERS_AT),
    refcountOrder: version === 2 ? 4 : view.getUint32(96),
    snapshotCount: view.getUint32(60),
    snapshotsOffset: readWord(view, SNAPSHOTS_OFFSET_AT),
    backingFileOffset: readWord(view, 8),
    backingFileBytes: view.getUint32(16),
    incompatible: version === 2 ? [0, 0] : [view.getUint32(72), view.getUint32(76)],
    autoclear: version === 2 ? [0, 0] : [view.getUint32(88), view.getUint32(92)],
    headerBytes: version === 2 ? 72 : view.getUint32(100),
    compressionType: 0,
  };
  validateHeader(header);
  // The field exists only where the header is long enough (hazard 1.2).
  if (header.headerBytes > 104 && bytes.length > 104) header.compressionType = bytes[104]!;
  return header;
}

function validateHeader(header: Header): void {
  const { clusterBytes, headerBytes } = header;
  if (header.version === 3 && (headerBytes < 104 || headerBytes > clusterBytes || headerBytes % 8 !== 0)) {
    throw outOfBounds('header_length', headerBytes, `it must be a multiple of 8 from 104 to ${clusterBytes}`);
  }
  if (extendedL2(header) && header.clusterBits < 14) {
    throw outOfBounds('cluster_bits', header.clusterBits, 'it must be 14 or more with extended L2 entries');
  }
  if (header.refcountOrder > 6)
    throw outOfBounds('refcount_order', header.refcountOrder, 'it must be 0 to 6');
  if (header.backingFileOffset !== 0) {
    const room = clusterBytes - header.backingFileOffset;
    if (!(room >= 0))
      throw outOfBounds('backing_file_offset', header.backingFileOffset, 'it must lie in the first cluster');
    if (header.backingFileBytes > Math.min(1023, room)) {
      throw outOfBounds(
        'backing_file_size',
        header.backingFileBytes,
        `it must be at most ${Math.min(1023, room)}`,
      );
    }
  }
  if (header.l1Entries * 8 > MAX_L1_BYTES)
    throw outOfBounds('l1_size', header.l1Entries, 'at most 4194304 entries');
  if (header.l1Entries > 0) requireAligned('l1_table_offset', header.l1Offset, clusterBytes);
  const guestBytesPerL1Entry = clusterBytes * (clusterBytes / l2EntryBytes(header));
  const l1Needed = Math.ceil(header.virtualBytes / guestBytesPerL1Entry);
  if (header.l1Entries < l1Needed) {
    throw outOfBounds('l1_size', header.l1Entries, `the virtual size needs ${l1Needed} entries`);
  }
  requireAligned('refcount_table_offset', header.refcountTableOffset, clusterBytes);
  if (header.refcountTableOffset === 0)
    throw outOfBounds('refcount_table_offset', 0, 'it overlaps the header');
  if (
    header.refcountTableClusters === 0 ||
    header.refcountTableClusters * clusterBytes > MAX_REFCOUNT_TABLE_BYTES
  ) {
    throw outOfBounds(
      'refcount_table_clusters',
      header.refcountTableClusters,
      'the table is 1 cluster to 8 MiB',
    );
  }
  if (header.snapshotCount > MAX_SNAPSHOTS) {
    throw outOfBounds('nb_snapshots', header.snapshotCount, `at most ${MAX_SNAPSHOTS}`);
  }
  if (header.snapshotCount > 0) requireAligned('snapshots_offset', header.snapshotsOffset, clusterBytes);
}

export function extendedL2(header: Header): boolean {
  return (header.incompatible[1] & INCOMPATIBLE.extendedL2) !== 0;
}

/** The guest's data are in another file: L2 entries name offsets there, and nothing in this one. */
export function hasDataFile(header: Header): boolean {
  return (header.incompatible[1] & INCOMPATIBLE.dataFile) !== 0;
}

/** An extended entry has a second word, with a bitmap of its subclusters. */
export function l2EntryBytes(header: Header): number {
  return extendedL2(header) ? 16 : 8;
}

/**
 * Walks the header extensions in `cluster0` (the first cluster, shorter where the file is). The area ends at
 * an end marker, at the backing file name, or where it is full (hazard 1.4).
 */
export function parseExtensions(cluster0: Uint8Array, header: Header): HeaderExtension[] {
  const view = viewOf(cluster0);
  const end = Math.min(
    cluster0.length,
    header.backingFileOffset !== 0 ? header.backingFileOffset : header.clusterBytes,
  );
  const extensions: HeaderExtension[] = [];
  let at = header.headerBytes;
  while (at + 8 <= end) {
    const type = view.getUint32(at);
    const dataBytes = view.getUint32(at + 4);
    // Before the end marker is known for one, as in QEMU, which does not open an image where its length is too large.
    if (dataBytes > end - at - 8) {
      throw new QcowError('CORRUPT', `header extension ${hex(type)} is larger than the room for it`, {
        where: `header, byte ${at}`,
        hint: 'the image is damaged; it was left untouched',
      });
    }
    if (type === EXTENSION.end) break;
    extensions.push({ type, dataAt: at + 8, dataBytes });
    at += 8 + Math.ceil(dataBytes / 8) * 8;
  }
  return extensions;
}
