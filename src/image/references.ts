/**
 * The one visitor: it knows what refers to what. Walk, check, plan and move all go through it, and a new
 * structure of the format is added here and in `substitute` (image/substitute.ts), nowhere else.
 */
import { extentBytes, extentOffset, extentReservedBits } from '../format/compressed.js';
import {
  EXTERNAL_WITHOUT_COPIED,
  HI_COMPRESSED,
  HI_COPIED,
  LO_ZERO,
  entryOffset,
  externalFault,
  l1ReservedBits,
  l2ReservedBits,
  subclusterFault,
} from '../format/entries.js';
import {
  L1_OFFSET_AT,
  REFCOUNT_TABLE_OFFSET_AT,
  SNAPSHOTS_OFFSET_AT,
  SNAPSHOT_COUNT_AT,
  hasDataFile,
  l2EntryBytes,
} from '../format/header.js';
import { isZero, swapHalves } from '../format/words.js';
import { visitBitmaps } from './bitmap-references.js';
import { HoleFinder } from './hole-finder.js';
import { type HostClusters, Kind } from './host-clusters.js';
import { type Image, clustersFor } from './image.js';
import { readPieces, readTables } from './table-reader.js';

/** Flags of a reference. */
export const Flag = {
  /** The entry belongs to the active L1 table or an L2 table that it reaches: COPIED is maintained there. */
  active: 1,
  /** Its COPIED bit is set. */
  copied: 2,
  /** It owns a cluster of which it reads nothing: preallocated (hazard 4.4). */
  unread: 4,
} as const;

export interface ReferenceVisitor {
  /**
   * One reference on disk. `slot`: host offset of the 8 bytes that hold it. `target`: host offset.
   * `clusterCount`: clusters of the unit (more than 1 for a run). `paths`: how many paths lead through it.
   */
  reference(
    slot: number,
    target: number,
    clusterCount: number,
    kind: Kind,
    paths: number,
    flags: number,
  ): void;
  /**
   * A compressed cluster descriptor. `offset`, `lengthBytes`: of the extent, up to the end of its last sector,
   * which another extent may share. `flags` as above.
   */
  extent?(slot: number, offset: number, lengthBytes: number, paths: number, flags: number): void;
  /**
   * Takes the ordinary entries of an L2 table of 8-byte entries itself, in a loop of its own: `halves` are hi, lo
   * of each.
   * Answers the index of the first half, from `from` on, of an entry that is to come by `reference`;
   * `halves.length` where none is left.
   */
  takeOrdinary?(halves: Int32Array, from: number, paths: number, active: boolean): number;
  /** An L2 table without an entry: all of it is zero. */
  emptyTable?(cluster: number): void;
  /**
   * A damaged entry, in words. Left out where the image is known to be sound. `flagAlone`: all that is wrong is
   * that an entry of the external data file is without COPIED.
   */
  problem?(what: string, slot: number, flagAlone?: boolean): void;
}

/** What is referred to by fields of the header, of a snapshot, of a bitmap: by a whole 64-bit offset. */
const IN_FIELDS = new Set<Kind>([
  Kind.l1Table,
  Kind.snapshotTable,
  Kind.refcountTable,
  Kind.bitmapDirectory,
  Kind.bitmapTable,
]);

/** Whether the slots that refer to `kind` are such fields; all others are entries (bits 9..55). */
export function slotIsField(kind: Kind): boolean {
  return IN_FIELDS.has(kind);
}

export interface L1Table {
  offset: number;
  entries: number;
  active: boolean;
  /** Host offset of the field that refers to it. */
  slot: number;
}

/** Whether an L2 entry owns a cluster of which it reads nothing. `allocated`: of an extended entry, as in its bitmap. */
export function isPreallocated(hi: number, lo: number, allocated: number | undefined): boolean {
  if ((hi & HI_COMPRESSED) !== 0 || entryOffset(hi, lo) === 0) return false;
  return allocated === undefined ? (lo & LO_ZERO) !== 0 : allocated === 0;
}

/** Every L1 table, the active one first. */
export function l1Tables(image: Image): L1Table[] {
  const { header, snapshots } = image;
  const tables: L1Table[] = [];
  if (header.l1Entries > 0) {
    tables.push({ offset: header.l1Offset, entries: header.l1Entries, active: true, slot: L1_OFFSET_AT });
  }
  for (const { at, l1Offset, l1Entries } of snapshots) {
    if (l1Entries === 0) continue;
    tables.push({ offset: l1Offset, entries: l1Entries, active: false, slot: header.snapshotsOffset + at });
  }
  return tables;
}

/**
 * Visits every reference of the image once. L2 tables come last, in host order: their paths are the
 * references that `clusters` holds for them by then, so the visitor of a first walk must have counted them.
 */
export async function visitReferences(
  image: Image,
  clusters: HostClusters,
  visitor: ReferenceVisitor,
): Promise<void> {
  const { header, refcounts, device } = image;
  const { clusterBytes } = header;
  visitor.reference(
    REFCOUNT_TABLE_OFFSET_AT,
    header.refcountTableOffset,
    header.refcountTableClusters,
    Kind.refcountTable,
    1,
    0,
  );
  for (const index of refcounts.present) {
    visitor.reference(refcounts.slotOf(index), refcounts.blocks[index]!, 1, Kind.refcountBlock, 1, 0);
  }
  if (image.snapshotTableClusters > 0) {
    const count = image.snapshotTableClusters;
    visitor.reference(SNAPSHOTS_OFFSET_AT, header.snapshotsOffset, count, Kind.snapshotTable, 1, 0);
  }
  if (image.encryptionHeader !== null) {
    const { slot, offset, lengthBytes } = image.encryptionHeader;
    visitor.reference(slot, offset, clustersFor(lengthBytes, clusterBytes), Kind.encryptionHeader, 1, 0);
  }
  if (hasDataFile(header) && header.snapshotCount > 0) {
    visitor.problem?.('an image with an external data file has snapshots', SNAPSHOT_COUNT_AT);
  }
  const tables = l1Tables(image);
  for (const { offset, entries, slot } of tables) {
    visitor.reference(slot, offset, clustersFor(entries * 8, clusterBytes), Kind.l1Table, 1, 0);
  }
  const holes = new HoleFinder(device);
  await visitBitmaps(image, holes, visitor);
  for (const table of tables) await visitL1(image, table, holes, visitor);
  // What these name lies in the other file: read only to be checked.
  if (hasDataFile(header) && visitor.problem === undefined) return;
  await readTables(
    device,
    clusterBytes,
    clusters.ofKind(Kind.l2Table),
    (cluster, bytes) => visitL2(image, cluster, bytes, clusters, visitor),
    (cluster) => visitor.emptyTable?.(cluster),
  );
}

async function visitL1(
  image: Image,
  table: L1Table,
  holes: HoleFinder,
  visitor: ReferenceVisitor,
): Promise<void> {
  const active = table.active ? Flag.active : 0;
  await readPieces(image.device, holes, table.offset, table.entries * 8, (offset, halves) => {
    for (let i = 0; i < halves.length; i += 2) {
      const hi = halves[i]!;
      const lo = halves[i + 1]!;
      if ((hi | lo) === 0) continue;
      const slot = offset + i * 4;
      if (l1ReservedBits(hi, lo)) visitor.problem?.('reserved bits are set in an L1 entry', slot);
      const target = entryOffset(hi, lo);
      // QEMU takes an entry of flags alone for a table at offset 0, and fails on it.
      if (target === 0) {
        visitor.problem?.('an L1 entry has flags but no offset', slot);
        continue;
      }
      const copied = (hi & HI_COPIED) !== 0 ? Flag.copied : 0;
      visitor.reference(slot, target, 1, Kind.l2Table, 1, active | copied);
    }
  });
}

function visitL2(
  image: Image,
  cluster: number,
  bytes: Uint8Array,
  clusters: HostClusters,
  visitor: ReferenceVisitor,
): void {
  const { clusterBits, clusterBytes, version } = image.header;
  if (isZero(bytes)) {
    visitor.emptyTable?.(cluster);
    return;
  }
  const halves = swapHalves(bytes);
  const base = cluster * clusterBytes;
  const paths = clusters.refs[cluster]!;
  const active = clusters.isActive(cluster) ? Flag.active : 0;
  const halvesPerEntry = l2EntryBytes(image.header) / 4;
  const isExtended = halvesPerEntry === 4;
  const isExternal = hasDataFile(image.header);
  for (let i = 0; i < halves.length; i += halvesPerEntry) {
    if (!isExtended && !isExternal) i = visitor.takeOrdinary?.(halves, i, paths, active !== 0) ?? i;
    if (i >= halves.length) break;
    const hi = halves[i]!;
    const lo = halves[i + 1]!;
    const slot = base + i * 4;
    if (isExtended) {
      const hasCluster = entryOffset(hi, lo) !== 0 || (isExternal && (hi & HI_COPIED) !== 0);
      const fault = subclusterFault(hi, hasCluster, halves[i + 2]!, halves[i + 3]!);
      if (fault !== null) visitor.problem?.(fault, slot);
    }
    if ((hi | lo) === 0) continue;
    if (isExternal) {
      const fault = externalFault(hi, lo, version >= 3 && !isExtended, clusterBytes);
      if (fault !== null) visitor.problem?.(fault, slot, fault === EXTERNAL_WITHOUT_COPIED);
      continue;
    }
    // Bit 62 decides what all other bits mean (hazard 6.1).
    if ((hi & HI_COMPRESSED) !== 0) {
      if (extentReservedBits(hi, clusterBits))
        visitor.problem?.('reserved bits are set in a descriptor', slot);
      const offset = extentOffset(hi, lo, clusterBits);
      const flags = active | ((hi & HI_COPIED) !== 0 ? Flag.copied : 0);
      visitor.extent?.(slot, offset, extentBytes(hi, lo, clusterBits), paths, flags);
      continue;
    }
    if (l2ReservedBits(hi, lo, version >= 3 && !isExtended))
      visitor.problem?.('reserved bits are set in an L2 entry', slot);
    const target = entryOffset(hi, lo);
    if (target === 0) continue;
    const copied = (hi & HI_COPIED) !== 0 ? Flag.copied : 0;
    const unread = isPreallocated(hi, lo, isExtended ? halves[i + 3] : undefined) ? Flag.unread : 0;
    visitor.reference(slot, target, 1, Kind.data, paths, active | copied | unread);
  }
}
