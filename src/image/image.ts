/** An opened image: its header, the places of its tables, and the device that holds it. */
import { QcowError, hex } from '../errors.js';
import type { BlockDevice } from '../device/block-device.js';
import {
  type BitmapDirectory,
  type BitmapEntry,
  bitmapDirectory,
  parseBitmapDirectory,
} from '../format/bitmaps.js';
import { type EncryptionHeader, encryptionHeader } from '../format/encryption.js';
import { requireSupported, requireUnmarked } from '../format/features.js';
import { type Header, parseExtensions, parseHeader } from '../format/header.js';
import { countsPerBlock } from '../format/refcounts.js';
import { MAX_SNAPSHOT_TABLE_BYTES, type SnapshotEntry, parseSnapshotTable } from '../format/snapshots.js';
import { type RefcountTable, type TableFault, decodeRefcountTable } from './refcount-table.js';
import { Refcounts } from './refcounts.js';

/** The directory of the persistent bitmaps and what it holds; the offsets follow the tables when they move. */
export interface Bitmaps {
  readonly directory: BitmapDirectory;
  readonly entries: BitmapEntry[];
}

/** Most host clusters that fit the arrays in memory (16 TiB at 64 KiB). */
export const MAX_CLUSTERS = 2 ** 28;

export interface Image {
  readonly device: BlockDevice;
  /** Its offset fields follow the tables when they move. */
  readonly header: Header;
  readonly refcounts: Refcounts;
  readonly snapshots: SnapshotEntry[];
  /** Clusters of the snapshot table; 0 without snapshots. */
  readonly snapshotTableClusters: number;
  readonly encryptionHeader: EncryptionHeader | null;
  /** Persistent bitmaps; null where there are none. */
  readonly bitmaps: Bitmaps | null;
  /** ceil(file length / cluster size) at opening. */
  readonly fileClusters: number;
  /**
   * Clusters that the arrays hold: those of the file that some refcount block describes. What lies beyond
   * is junk with refcount 0, so a sparse file of any length costs no memory. All of the file for a repair.
   */
  readonly mappedClusters: number;
  /** Damaged entries of the refcount table, which only a repair gets to see. */
  readonly refcountFaults: readonly TableFault[];
}

export interface OpenOptions {
  /**
   * Takes an image that is marked dirty or corrupt, and damaged refcount structures, whose damage is noted: neither
   * says anything about what is referenced.
   */
  forRepair?: boolean;
}

export function clustersFor(lengthBytes: number, clusterBytes: number): number {
  return Math.ceil(lengthBytes / clusterBytes);
}

function requireInside(
  what: string,
  offset: number,
  lengthBytes: number,
  header: Header,
  fileClusters: number,
): void {
  const { clusterBytes } = header;
  if (offset / clusterBytes + clustersFor(lengthBytes, clusterBytes) <= fileClusters) return;
  throw new QcowError('CORRUPT', `the ${what} reaches beyond the end of the file`, {
    where: `offset ${hex(offset)}, ${lengthBytes} bytes`,
    hint: 'the file is truncated or damaged; it was left untouched',
  });
}

/** Reads header, extensions, refcount table and snapshot table; throws for what cannot be handled (I6). */
export async function openImage(
  device: BlockDevice,
  { forRepair = false }: OpenOptions = {},
): Promise<Image> {
  const lengthBytes = device.lengthBytes;
  const start = new Uint8Array(Math.min(lengthBytes, 512));
  await device.read(start, 0);
  const header = parseHeader(start);
  const { clusterBytes } = header;
  const fileClusters = clustersFor(lengthBytes, clusterBytes);
  const cluster0 = new Uint8Array(Math.min(lengthBytes, clusterBytes));
  await device.read(cluster0, 0);
  const extensions = parseExtensions(cluster0, header);
  if (!forRepair) requireUnmarked(header);
  requireSupported(header, extensions, cluster0);
  const encryption = encryptionHeader(header, extensions, cluster0);

  const refcountFaults: TableFault[] = [];
  const onFault = forRepair ? (fault: TableFault) => refcountFaults.push(fault) : undefined;
  const refcountTable = await readRefcountTable(device, header, fileClusters, onFault);
  const covered =
    ((refcountTable.present.at(-1) ?? -1) + 1) * countsPerBlock(clusterBytes, header.refcountOrder);
  const mappedClusters = forRepair ? fileClusters : Math.min(fileClusters, covered);
  if (mappedClusters > MAX_CLUSTERS) {
    throw new QcowError('UNSUPPORTED', `the file has more than ${MAX_CLUSTERS} host clusters`);
  }

  if (header.l1Entries > 0)
    requireInside('L1 table', header.l1Offset, header.l1Entries * 8, header, fileClusters);
  const { entries, lengthBytes: snapshotBytes } = await readSnapshots(device, header);
  for (const [index, entry] of entries.entries()) {
    if (entry.l1Entries === 0) continue;
    const what = `L1 table of snapshot ${index}`;
    if (!Number.isFinite(entry.l1Offset) || entry.l1Offset % clusterBytes !== 0 || entry.l1Offset === 0) {
      throw new QcowError('CORRUPT', `the ${what} is not at a cluster of the file`, {
        where: `snapshot table at ${hex(header.snapshotsOffset)}`,
      });
    }
    requireInside(what, entry.l1Offset, entry.l1Entries * 8, header, fileClusters);
  }
  const l1 = [header, ...entries].map(({ l1Offset, l1Entries }) => ({
    offset: l1Offset,
    entries: l1Entries,
  }));
  requireApart('L1 tables', l1, clusterBytes, `snapshot table at ${hex(header.snapshotsOffset)}`);
  const directory = bitmapDirectory(header, extensions, cluster0);
  return {
    device,
    header,
    refcounts: new Refcounts(header, refcountTable, mappedClusters),
    snapshots: entries,
    encryptionHeader: encryption,
    bitmaps: directory && (await readBitmaps(device, directory, header, fileClusters)),
    snapshotTableClusters: clustersFor(snapshotBytes, clusterBytes),
    fileClusters,
    mappedClusters,
    refcountFaults,
  };
}

/** `onFault`: takes what is wrong with it; what lies beyond the end of the file reads as zeroes then. */
async function readRefcountTable(
  device: BlockDevice,
  header: Header,
  fileClusters: number,
  onFault: ((fault: TableFault) => void) | undefined,
): Promise<RefcountTable> {
  const tableBytes = header.refcountTableClusters * header.clusterBytes;
  // The walk notes it otherwise.
  if (onFault === undefined)
    requireInside('refcount table', header.refcountTableOffset, tableBytes, header, fileClusters);
  const table = new Uint8Array(tableBytes);
  await device.read(table, header.refcountTableOffset);
  return decodeRefcountTable(table, header, fileClusters, onFault);
}

interface Table {
  offset: number;
  entries: number;
}

/** Else tables that overlap could make us read the same bytes as often as there are tables, which is for hours. */
function requireApart(what: string, tables: readonly Table[], clusterBytes: number, where: string): void {
  const sorted = tables.filter(({ entries }) => entries > 0).sort((a, b) => a.offset - b.offset);
  for (let i = 1; i < sorted.length; i++) {
    const { offset, entries } = sorted[i - 1]!;
    if (offset + clustersFor(entries * 8, clusterBytes) * clusterBytes <= sorted[i]!.offset) continue;
    throw new QcowError('CORRUPT', `two ${what} overlap at ${hex(sorted[i]!.offset)}`, {
      where,
      hint: 'the image is damaged; it was left untouched',
    });
  }
}

async function readSnapshots(device: BlockDevice, header: Header) {
  // Without snapshots the offset may be stale (hazard 7.6).
  if (header.snapshotCount === 0) return { entries: [], lengthBytes: 0 };
  const room = Math.max(0, device.lengthBytes - header.snapshotsOffset);
  // The length is known only by parsing: read on until the entries fit, at most what QEMU accepts.
  for (let bytes = Math.min(room, header.snapshotCount * 256); ; bytes = Math.min(room, bytes * 8)) {
    const capped = Math.min(bytes, MAX_SNAPSHOT_TABLE_BYTES);
    const buffer = new Uint8Array(capped);
    await device.read(buffer, header.snapshotsOffset);
    const table = parseSnapshotTable(buffer, header.snapshotCount, header.version);
    if (typeof table !== 'string') return table;
    if (bytes >= room || capped >= MAX_SNAPSHOT_TABLE_BYTES) {
      throw new QcowError('CORRUPT', table, { where: `snapshot table at ${hex(header.snapshotsOffset)}` });
    }
  }
}

async function readBitmaps(
  device: BlockDevice,
  directory: BitmapDirectory,
  header: Header,
  fileClusters: number,
): Promise<Bitmaps> {
  requireInside('bitmap directory', directory.offset, directory.lengthBytes, header, fileClusters);
  const bytes = new Uint8Array(directory.lengthBytes);
  await device.read(bytes, directory.offset);
  const entries = parseBitmapDirectory(bytes, directory, header);
  for (const [index, { tableOffset, tableEntries }] of entries.entries())
    requireInside(`table of bitmap ${index}`, tableOffset, tableEntries * 8, header, fileClusters);
  const tables = entries.map(({ tableOffset, tableEntries }) => ({
    offset: tableOffset,
    entries: tableEntries,
  }));
  requireApart('bitmap tables', tables, header.clusterBytes, `bitmap directory at ${hex(directory.offset)}`);
  return { directory, entries };
}
