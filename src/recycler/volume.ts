/** The image that a recycler works on: what is on disk, what is where, and who uses it. */
import type { BlockDevice } from '../device/block-device.js';
import type { HostClusters } from '../image/host-clusters.js';
import type { BitmapEntry } from '../format/bitmaps.js';
import type { SnapshotEntry } from '../format/snapshots.js';
import type { Image } from '../image/image.js';
import { l1Tables } from '../image/references.js';
import { Kind } from '../image/host-clusters.js';
import { Pins } from './pins.js';
import { AS_IT_IS, type Transfer } from './transfer.js';
import { ClusterMap } from './cluster-map.js';

/** A unit of several clusters that must stay contiguous, or the table of one cluster that its kin may outgrow. */
export interface Run {
  kind: Kind;
  first: number;
  count: number;
  /** Bytes of the table that hold entries. */
  lengthBytes: number;
}

export class Volume {
  readonly image: Image;
  readonly clusters: HostClusters;
  readonly map: ClusterMap;
  /** What must stay where it is. Found once: no data are written while a compaction runs without clients. */
  readonly pins: Pins;
  /** What data need on their way to another place. */
  readonly transfer: Transfer;
  /** Snapshots by the offset of their L1 table, which no other has; made when the first one moves: there may be 65,536. */
  #snapshotAt: Map<number, SnapshotEntry> | undefined;
  /** Likewise, bitmaps by the offset of their table. */
  #bitmapAt: Map<number, BitmapEntry> | undefined;

  /** `reencryption`: of an image with LUKS, made of its key. */
  constructor(image: Image, clusters: HostClusters, reencryption: Transfer | null = null) {
    this.image = image;
    this.clusters = clusters;
    this.pins = new Pins(image.header, clusters, reencryption !== null);
    this.transfer = reencryption ?? AS_IT_IS;
    this.map = new ClusterMap(clusters.refs, clusters.count);
  }

  get device(): BlockDevice {
    return this.image.device;
  }

  /**
   * Whether the host may let what `transfer` carries share blocks with its new place, so that nothing is copied. Asks
   * the host once.
   */
  mayShare(transfer: Transfer): boolean {
    const { device, clusterBytes } = this;
    return transfer === AS_IT_IS && clusterBytes % device.blockBytes === 0 && device.canShare;
  }

  /** The same of data. */
  get sharesData(): boolean {
    return this.mayShare(this.transfer);
  }

  get clusterBytes(): number {
    return this.image.header.clusterBytes;
  }

  /** Counts and uses follow the file's length; the map's states are the caller's. */
  resize(clusterCount: number): void {
    this.clusters.resize(clusterCount);
    this.image.refcounts.resize(clusterCount);
  }

  /** Every table that the header, the snapshot table or the bitmap directory refers to, at its place now. */
  runs(): Run[] {
    const { header, refcounts, snapshotTableClusters } = this.image;
    const { clusterBytes } = header;
    const runs: Run[] = l1Tables(this.image).map(({ offset, entries }) => ({
      kind: Kind.l1Table,
      first: offset / clusterBytes,
      count: Math.ceil((entries * 8) / clusterBytes),
      lengthBytes: entries * 8,
    }));
    runs.push({
      kind: Kind.refcountTable,
      first: refcounts.tableOffset / clusterBytes,
      count: refcounts.tableClusters,
      lengthBytes: refcounts.tableClusters * clusterBytes,
    });
    if (snapshotTableClusters > 0) {
      runs.push({
        kind: Kind.snapshotTable,
        first: header.snapshotsOffset / clusterBytes,
        count: snapshotTableClusters,
        lengthBytes: snapshotTableClusters * clusterBytes,
      });
    }
    return runs.concat(this.#bitmapRuns());
  }

  #bitmapRuns(): Run[] {
    const { bitmaps } = this.image;
    if (bitmaps === null) return [];
    const { clusterBytes } = this;
    const run = (kind: Kind, offset: number, lengthBytes: number) => ({
      kind,
      first: offset / clusterBytes,
      count: Math.ceil(lengthBytes / clusterBytes),
      lengthBytes,
    });
    return [
      run(Kind.bitmapDirectory, bitmaps.directory.offset, bitmaps.directory.lengthBytes),
      ...bitmaps.entries.map(({ tableOffset, tableEntries }) =>
        run(Kind.bitmapTable, tableOffset, tableEntries * 8),
      ),
    ];
  }

  /** A table has moved: the fields in memory follow what the slots on disk say now. */
  tableMoved(kind: Kind, source: number, destination: number): void {
    const { header, refcounts } = this.image;
    const { clusterBytes } = header;
    const from = source * clusterBytes;
    const to = destination * clusterBytes;
    if (kind === Kind.l1Table) {
      if (header.l1Entries > 0 && header.l1Offset === from) header.l1Offset = to;
      this.#snapshotTableMoved(from, to);
    } else if (kind === Kind.snapshotTable && header.snapshotsOffset === from) {
      header.snapshotsOffset = to;
    } else if (kind === Kind.refcountTable && refcounts.tableOffset === from) {
      refcounts.tableOffset = to;
      header.refcountTableOffset = to;
    } else if (kind === Kind.refcountBlock) {
      const index = refcounts.indexOfBlock(from);
      if (index >= 0) refcounts.blockMoved(index, to);
    } else if (kind === Kind.bitmapDirectory || kind === Kind.bitmapTable) this.#bitmapsMoved(from, to);
  }

  #bitmapsMoved(from: number, to: number): void {
    const { bitmaps } = this.image;
    if (bitmaps === null) return;
    if (bitmaps.directory.offset === from) bitmaps.directory.offset = to;
    this.#bitmapAt ??= new Map(bitmaps.entries.map((entry) => [entry.tableOffset, entry]));
    const entry = rekey(this.#bitmapAt, from, to);
    if (entry !== undefined) entry.tableOffset = to;
  }

  #snapshotTableMoved(from: number, to: number): void {
    this.#snapshotAt ??= this.#indexSnapshots();
    const entry = rekey(this.#snapshotAt, from, to);
    if (entry !== undefined) entry.l1Offset = to;
  }

  #indexSnapshots(): Map<number, SnapshotEntry> {
    const index = new Map<number, SnapshotEntry>();
    for (const entry of this.image.snapshots) if (entry.l1Entries > 0) index.set(entry.l1Offset, entry);
    return index;
  }
}

/** What `index` has at `from` is at `to` from now on. */
function rekey<Entry>(index: Map<number, Entry>, from: number, to: number): Entry | undefined {
  const entry = index.get(from);
  if (entry === undefined) return undefined;
  index.delete(from);
  index.set(to, entry);
  return entry;
}
