/** How guest offsets map to tables, entries and clusters. */
import { SECTOR } from '../device/block-device.js';
import { type Header, extendedL2, l2EntryBytes } from '../format/header.js';

export interface Geometry {
  /** Bytes of the disk that the guest sees: whole sectors, as in QEMU. */
  readonly sizeBytes: number;
  readonly clusterBytes: number;
  readonly clusterBits: number;
  readonly entryBytes: number;
  /** Entries of an L2 table. */
  readonly entries: number;
  /** Bytes of the guest's disk that one L2 table maps. */
  readonly tableBytes: number;
  /** What has a state of its own: a cluster, or one of the 32 parts of a cluster with extended entries. */
  readonly unitBytes: number;
  readonly isExtended: boolean;
  /** An entry can say that its cluster reads as zeroes. Not so in version 2. */
  readonly canZero: boolean;
}

export const SUBCLUSTERS = 32;
/** A bit for each of them. */
export const EVERY_UNIT = 0xffff_ffff;

export function geometryOf(header: Header): Geometry {
  const { clusterBytes, clusterBits, virtualBytes, version } = header;
  const entryBytes = l2EntryBytes(header);
  const isExtended = extendedL2(header);
  const entries = clusterBytes / entryBytes;
  return {
    sizeBytes: virtualBytes - (virtualBytes % SECTOR),
    clusterBytes,
    clusterBits,
    entryBytes,
    entries,
    tableBytes: entries * clusterBytes,
    unitBytes: isExtended ? clusterBytes / SUBCLUSTERS : clusterBytes,
    isExtended,
    canZero: version >= 3,
  };
}
