/**
 * An independent checker of qcow2 images in memory, for tests: counts references and compares them
 * with the refcounts as `qemu-img check` does, and is stricter where the specification is.
 */
import { compressedExtent, readLayout, readOffset, type ImageLayout } from './oracle-layout.js';

export { compareGuestView, guestView, readGuest, type GuestView } from './oracle-guest-view.js';

export interface Inspection {
  /** One line each; empty means valid. */
  readonly corruptions: readonly string[];
  /** Host clusters with a refcount above the number of references. */
  readonly leaks: number;
  /** Refcounts that are not 0, of clusters that the file is too short to have. */
  readonly staleRefcountsPastEnd: number;
  /** Host clusters with at least one reference. */
  readonly liveClusters: number;
  readonly clusterCount: number;
  readonly clusterSize: number;
}

const KINDS = [
  'header',
  'refcount table',
  'refcount block',
  'L1 table',
  'snapshot table',
  'L2 table',
  'data',
  'compressed data',
  'encryption header',
  'bitmap directory',
  'bitmap table',
  'bitmap data',
];
const HEADER = 1;
const REFCOUNT_TABLE = 2;
const REFCOUNT_BLOCK = 3;
const L1_TABLE = 4;
const SNAPSHOT_TABLE = 5;
const L2_TABLE = 6;
const DATA = 7;
const COMPRESSED = 8;
const ENCRYPTION_HEADER = 9;
const BITMAP_DIRECTORY = 10;
const BITMAP_TABLE = 11;
const BITMAP_DATA = 12;
/** Of these kinds several references to one cluster are legal. */
const SHARED = [L2_TABLE, DATA, COMPRESSED];

export function inspect(bytes: Uint8Array): Inspection {
  const layout = readLayout(bytes);
  if (typeof layout === 'string') {
    return {
      corruptions: [layout],
      leaks: 0,
      staleRefcountsPastEnd: 0,
      liveClusters: 0,
      clusterCount: 0,
      clusterSize: 0,
    };
  }
  return new Inspector(layout).inspect();
}

/**
 * The least number of host clusters that a leak-free image of the same live data needs: its refcount
 * structures describe themselves too, so the least fixed point, approached from below. Compressed
 * extents count as what they need when squeezed sector by sector, which may be out of reach where
 * `refcountsLimitSharing`. Of an image with LUKS no less than reaches to its encryption header, which cannot move, and
 * without its key (`hasKey`) to its last cluster of data. L2 tables without an entry are not needed, nor, with
 * `preallocation: 'dropped'`, allocated clusters that read as zeroes.
 */
export function minimalClusterCount(bytes: Uint8Array, needs: Needs = {}): number {
  const { inspector, layout } = inspected(bytes, needs);
  const compressed = Math.ceil((inspector.sectorsOfExtents() * 512) / layout.clusterSize);
  const empty = needs.emptyTables === 'kept' ? 0 : inspector.emptyTables;
  const others = inspector.uncompressedClusters() + compressed - empty;
  const pinned = inspector.clustersThatReachToTheLastPinned(needs.hasKey ?? layout.hasKnownKey);
  const entriesPerBlock = (layout.clusterSize * 8) / 2 ** layout.refcountOrder;
  let total = Math.max(others, pinned);
  for (;;) {
    const blocks = Math.ceil(total / entriesPerBlock);
    const needed = Math.max(pinned, others + blocks + Math.ceil((blocks * 8) / layout.clusterSize));
    if (needed === total) {
      return total;
    }
    total = needed;
  }
}

/** What an image is to keep though the guest sees the same without it. */
export interface Needs {
  /** By default not kept. */
  readonly emptyTables?: 'kept';
  /** By default kept. */
  readonly preallocation?: 'dropped';
  /** Whether encrypted data can move; by default where the key is known. */
  readonly hasKey?: boolean;
}

/** The 512-byte sectors of the file that compressed extents in use touch, each once. */
export function extentSectors(bytes: Uint8Array): number {
  return inspected(bytes).inspector.sectorsOfExtents();
}

/**
 * Whether refcounts might be too narrow for so many references to the extents of one host cluster as
 * some order of the sectors would bring together. Counts an extent once for each of its sectors, so
 * that false is certain and true is not.
 */
export function refcountsLimitSharing(bytes: Uint8Array): boolean {
  const { inspector, layout } = inspected(bytes);
  const crowded = inspector.sectorReferences.toSorted().slice(-layout.clusterSize / 512);
  const most = crowded.reduce((sum, references) => sum + references, 0);
  return most > 2 ** (2 ** layout.refcountOrder) - 1;
}

function inspected(bytes: Uint8Array, needs: Needs = {}): { inspector: Inspector; layout: ImageLayout } {
  const layout = readLayout(bytes);
  if (typeof layout === 'string') {
    throw new Error(layout);
  }
  const inspector = new Inspector(layout, needs.preallocation === 'dropped');
  inspector.inspect();
  return { inspector, layout };
}

class Inspector {
  private readonly corruptions: string[];
  private readonly references: Float64Array;
  private readonly refcounts: Float64Array;
  private readonly kinds: Uint8Array;
  /** How many L1 entries lead to the L2 table in this cluster: its entries count that often. */
  private readonly paths: Uint32Array;
  private readonly activeL2: Uint8Array;
  private readonly l2Clusters: number[] = [];
  /** Of each sector of the file: references to compressed extents that touch it. */
  readonly sectorReferences: Float64Array;
  private stale = 0;
  /** L2 tables without an entry. */
  emptyTables = 0;

  constructor(
    private readonly layout: ImageLayout,
    /** Entries that own a cluster of which they read nothing count as if they did not. */
    private readonly withoutPreallocation = false,
  ) {
    this.corruptions = [...layout.faults];
    // One more, since the last sectors of a compressed extent may lie past the end of the file.
    this.references = new Float64Array(layout.clusterCount + 1);
    this.refcounts = new Float64Array(layout.clusterCount + 1);
    this.kinds = new Uint8Array(layout.clusterCount + 1);
    this.sectorReferences = new Float64Array(((layout.clusterCount + 1) * layout.clusterSize) / 512);
    this.paths = new Uint32Array(layout.clusterCount);
    this.activeL2 = new Uint8Array(layout.clusterCount);
  }

  inspect(): Inspection {
    const { layout } = this;
    this.claim(HEADER, 0, layout.clusterSize, 1, 0);
    this.walkRefcounts();
    if (layout.encryptionHeader !== null) {
      const { offset, length } = layout.encryptionHeader;
      this.claim(ENCRYPTION_HEADER, offset, length, 1, 0);
    }
    this.walkBitmaps();
    this.walkL1(layout.l1Offset, layout.l1Size, true);
    if (layout.snapshotsLength > 0) {
      this.claim(SNAPSHOT_TABLE, layout.snapshotsOffset, layout.snapshotsLength, 1, 64);
    }
    if (layout.dataFile && layout.snapshots.length > 0) {
      this.corruptions.push('header: snapshots with an external data file');
    }
    for (const snapshot of layout.snapshots) {
      if (layout.version === 3 && snapshot.extraSize < 16) {
        this.corruptions.push(`snapshot ${snapshot.id}: ${snapshot.extraSize} bytes of extra data`);
      }
      this.walkL1(snapshot.l1Offset, snapshot.l1Size, false);
    }
    for (const cluster of this.l2Clusters) {
      this.walkL2(cluster);
    }

    let leaks = 0;
    let liveClusters = 0;
    for (let cluster = 0; cluster < layout.clusterCount; cluster++) {
      const references = this.references[cluster] ?? 0;
      const refcount = this.refcounts[cluster] ?? 0;
      if (references > 0) {
        liveClusters++;
      }
      if (refcount > references) {
        leaks++;
      } else if (refcount < references) {
        this.corruptions.push(
          `cluster ${cluster} (${this.kindOf(cluster)}): refcount ${refcount}, references ${references}`,
        );
      }
    }
    this.comparePastEnd();
    return {
      corruptions: this.corruptions,
      leaks,
      staleRefcountsPastEnd: this.stale,
      liveClusters,
      clusterCount: layout.clusterCount,
      clusterSize: layout.clusterSize,
    };
  }

  /** Without the refcount structures. */
  uncompressedClusters(): number {
    const others = [0, REFCOUNT_TABLE, REFCOUNT_BLOCK, COMPRESSED];
    return this.kinds.reduce((count, kind) => count + (others.includes(kind) ? 0 : 1), 0);
  }

  sectorsOfExtents(): number {
    return this.sectorReferences.reduce((count, references) => count + (references > 0 ? 1 : 0), 0);
  }

  /** The cluster after the last one has a refcount when a compressed extent touches it, else a stale one. */
  private comparePastEnd(): void {
    const cluster = this.layout.clusterCount;
    const references = this.references[cluster] ?? 0;
    const refcount = this.refcounts[cluster] ?? 0;
    if (references > 0 && refcount > 0) {
      this.stale--;
    }
    if (refcount < references) {
      this.corruptions.push(
        `cluster ${cluster} (past the end): refcount ${refcount}, references ${references}`,
      );
    }
  }

  clustersThatReachToTheLastPinned(hasKey: boolean): number {
    if (this.layout.encryptionHeader === null) {
      return 0;
    }
    const lastData = hasKey ? -1 : this.kinds.lastIndexOf(DATA);
    return Math.max(lastData, this.kinds.lastIndexOf(ENCRYPTION_HEADER)) + 1;
  }

  private kindOf(cluster: number): string {
    return KINDS[(this.kinds[cluster] ?? 0) - 1] ?? 'unused';
  }

  /**
   * Counts `times` references to every cluster of a region. False when it cannot be read. `slot` is
   * the file offset of what refers to it, for messages.
   */
  private claim(kind: number, offset: number, length: number, times: number, slot: number): boolean {
    const { clusterSize, clusterCount } = this.layout;
    const first = offset / clusterSize;
    if (!Number.isInteger(first)) {
      this.fault(kind, offset, slot, 'is not aligned');
      return false;
    }
    const end = Math.ceil((offset + length) / clusterSize);
    if (end > clusterCount) {
      this.fault(kind, offset, slot, 'is beyond the end of the file');
      return false;
    }
    for (let cluster = first; cluster < end; cluster++) {
      this.count(kind, cluster, times, slot);
    }
    return true;
  }

  private count(kind: number, cluster: number, times: number, slot: number): void {
    const before = this.kinds[cluster] ?? 0;
    if (before !== 0 && (before !== kind || !SHARED.includes(kind))) {
      this.fault(kind, cluster * this.layout.clusterSize, slot, `overlaps a ${KINDS[before - 1]}`);
    }
    this.kinds[cluster] = kind;
    this.references[cluster] = (this.references[cluster] ?? 0) + times;
  }

  private fault(kind: number, offset: number, slot: number, what: string): void {
    this.corruptions.push(
      `${KINDS[kind - 1]} at 0x${offset.toString(16)}, named at 0x${slot.toString(16)}, ${what}`,
    );
  }

  private walkRefcounts(): void {
    const { layout } = this;
    const { view, clusterSize } = layout;
    const tableOffset = layout.refcountTableOffset;
    const tableLength = layout.refcountTableClusters * clusterSize;
    if (tableLength === 0) {
      this.corruptions.push('header: no refcount table');
      return;
    }
    if (!this.claim(REFCOUNT_TABLE, tableOffset, tableLength, 1, 48)) {
      return;
    }
    for (let slot = tableOffset, index = 0; slot < tableOffset + tableLength; slot += 8, index++) {
      const high = view.getUint32(slot);
      const low = view.getUint32(slot + 4);
      if (high === 0 && low === 0) {
        continue;
      }
      const offset = high * 0x1_0000_0000 + ((low & 0xfffffe00) >>> 0);
      if ((low & 0x1ff) !== 0) {
        this.fault(REFCOUNT_BLOCK, offset, slot, 'has reserved bits set');
      }
      if (offset !== 0 && this.claim(REFCOUNT_BLOCK, offset, clusterSize, 1, slot)) {
        this.readRefcountBlock(offset, index);
      }
    }
  }

  private readRefcountBlock(offset: number, blockIndex: number): void {
    const { layout } = this;
    const order = layout.refcountOrder;
    const entries = (layout.clusterSize * 8) >>> order;
    const base = blockIndex * entries;
    const pastEnd = layout.clusterCount - base;
    if (pastEnd >= 0 && pastEnd < entries) {
      this.refcounts[layout.clusterCount] = this.refcountAt(offset, pastEnd);
    }
    const inFile = Math.max(0, Math.min(entries, layout.clusterCount - base));
    for (let entry = 0; entry < inFile; entry++) {
      this.refcounts[base + entry] = this.refcountAt(offset, entry);
    }
    // Past the end nearly all is zero, and a 2 MiB block has millions of entries: look at bytes first.
    let entry = inFile;
    const wholeByte = order < 3 ? Math.ceil(inFile / (8 >>> order)) : inFile << (order - 3);
    const firstWhole = order < 3 ? wholeByte * (8 >>> order) : inFile;
    for (; entry < firstWhole; entry++) {
      this.stale += this.refcountAt(offset, entry) === 0 ? 0 : 1;
    }
    if (entry < entries && !isZero(layout.image, offset + wholeByte, offset + layout.clusterSize)) {
      for (; entry < entries; entry++) {
        this.stale += this.refcountAt(offset, entry) === 0 ? 0 : 1;
      }
    }
  }

  private refcountAt(blockOffset: number, entry: number): number {
    const { view, refcountOrder: order } = this.layout;
    switch (order) {
      case 3:
        return view.getUint8(blockOffset + entry);
      case 4:
        return view.getUint16(blockOffset + entry * 2);
      case 5:
        return view.getUint32(blockOffset + entry * 4);
      case 6:
        return readOffset(view, blockOffset + entry * 8);
      default: {
        const perByteBits = 3 - order;
        const byte = view.getUint8(blockOffset + (entry >>> perByteBits));
        const shift = (entry & ((1 << perByteBits) - 1)) << order;
        return (byte >>> shift) & ((1 << (1 << order)) - 1);
      }
    }
  }

  private walkBitmaps(): void {
    const { view, clusterSize, bitmaps: found } = this.layout;
    if (found === null) {
      return;
    }
    const { slot, directoryOffset, directoryLength, bitmaps } = found;
    this.claim(BITMAP_DIRECTORY, directoryOffset, directoryLength, 1, slot);
    for (const { start, tableOffset, tableEntries } of bitmaps) {
      if (!this.claim(BITMAP_TABLE, tableOffset, tableEntries * 8, 1, directoryOffset + start)) {
        continue;
      }
      for (let slot = tableOffset; slot < tableOffset + tableEntries * 8; slot += 8) {
        const high = view.getUint32(slot);
        const low = view.getUint32(slot + 4);
        const target = (high & 0x00ffffff) * 0x1_0000_0000 + ((low & 0xfffffe00) >>> 0);
        if ((high & 0xff000000) !== 0 || (low & 0x1fe) !== 0 || ((low & 1) !== 0 && target !== 0)) {
          this.fault(BITMAP_DATA, target, slot, 'has reserved bits set');
        }
        if (target !== 0) {
          this.claim(BITMAP_DATA, target, clusterSize, 1, slot);
        }
      }
    }
  }

  private walkL1(offset: number, size: number, active: boolean): void {
    const { view, clusterSize } = this.layout;
    if (size === 0 || !this.claim(L1_TABLE, offset, size * 8, 1, active ? 40 : 0)) {
      return;
    }
    for (let slot = offset; slot < offset + size * 8; slot += 8) {
      const high = view.getUint32(slot);
      const low = view.getUint32(slot + 4);
      const target = (high & 0x00ffffff) * 0x1_0000_0000 + ((low & 0xfffffe00) >>> 0);
      if (target === 0) {
        continue;
      }
      if ((high & 0x7f000000) !== 0 || (low & 0x1ff) !== 0) {
        this.fault(L2_TABLE, target, slot, 'has reserved bits set');
      }
      if (!this.claim(L2_TABLE, target, clusterSize, 1, slot)) {
        continue;
      }
      const cluster = target / clusterSize;
      if (this.paths[cluster] === 0) {
        this.l2Clusters.push(cluster);
      }
      this.paths[cluster] = (this.paths[cluster] ?? 0) + 1;
      if (active) {
        this.activeL2[cluster] = 1;
        this.checkCopied(L2_TABLE, cluster, high, slot);
      }
    }
  }

  private walkL2(l2Cluster: number): void {
    const { view, clusterSize, version, l2EntrySize, dataFile } = this.layout;
    const paths = this.paths[l2Cluster] ?? 0;
    const active = this.activeL2[l2Cluster] === 1;
    const end = (l2Cluster + 1) * clusterSize;
    let isEmpty = true;
    for (let slot = l2Cluster * clusterSize; slot < end; slot += l2EntrySize) {
      const high = view.getUint32(slot);
      const low = view.getUint32(slot + 4);
      if (l2EntrySize === 16) {
        this.checkSubclusters(high, low, slot);
        isEmpty &&= view.getUint32(slot + 8) === 0 && view.getUint32(slot + 12) === 0;
      }
      if (high === 0 && low === 0) {
        continue;
      }
      if (this.withoutPreallocation && this.isPreallocated(high, low, slot)) {
        isEmpty &&= l2EntrySize === 16;
        continue;
      }
      isEmpty = false;
      if ((high & 0x40000000) !== 0 && !dataFile) {
        this.countCompressed(high, low, paths, slot);
        continue;
      }
      const target = (high & 0x00ffffff) * 0x1_0000_0000 + ((low & 0xfffffe00) >>> 0);
      if (
        (high & 0x3f000000) !== 0 ||
        (low & 0x1fe) !== 0 ||
        ((version === 2 || l2EntrySize === 16) && (low & 1) !== 0)
      ) {
        this.fault(DATA, target, slot, 'has reserved bits set');
      }
      if (dataFile) {
        this.checkExternal(target, high, slot);
      } else if (target !== 0 && this.claim(DATA, target, clusterSize, paths, slot) && active) {
        this.checkCopied(DATA, target / clusterSize, high, slot);
      }
    }
    this.emptyTables += isEmpty ? 1 : 0;
  }

  private isPreallocated(high: number, low: number, slot: number): boolean {
    const { view, l2EntrySize, dataFile } = this.layout;
    const hasCluster = (high & 0x00ffffff) !== 0 || (low & 0xfffffe00) !== 0;
    if (dataFile || !hasCluster || (high & 0x40000000) !== 0) {
      return false;
    }
    return l2EntrySize === 16 ? view.getUint32(slot + 12) === 0 : (low & 1) !== 0;
  }

  private checkSubclusters(high: number, low: number, slot: number): void {
    const zero = this.layout.view.getUint32(slot + 8);
    const allocated = this.layout.view.getUint32(slot + 12);
    const target = (high & 0x00ffffff) * 0x1_0000_0000 + ((low & 0xfffffe00) >>> 0);
    if ((high & 0x40000000) !== 0) {
      if (zero !== 0 || allocated !== 0) {
        this.fault(COMPRESSED, target, slot, 'has a bitmap of subclusters');
      }
    } else if ((zero & allocated) !== 0 || (target === 0 && high >>> 31 === 0 && allocated !== 0)) {
      this.fault(DATA, target, slot, `has subclusters allocated ${allocated} and zero ${zero}`);
    }
  }

  /** Of an external data file: nothing is counted there, so every cluster counts as not shared. */
  private checkExternal(target: number, high: number, slot: number): void {
    if ((high & 0x40000000) !== 0) {
      this.fault(COMPRESSED, target, slot, 'is in an external data file');
    } else if (target % this.layout.clusterSize !== 0) {
      this.fault(DATA, target, slot, 'of the external data file is not aligned');
    } else if (target !== 0 && high >>> 31 === 0) {
      this.fault(DATA, target, slot, 'of the external data file is without COPIED');
    }
  }

  /** In the active layer the flag says exactly: this entry is the only reference. */
  private checkCopied(kind: number, cluster: number, high: number, slot: number): void {
    const copied = high >>> 31 === 1;
    const refcount = this.refcounts[cluster] ?? 0;
    if (copied !== (refcount === 1)) {
      this.fault(
        kind,
        cluster * this.layout.clusterSize,
        slot,
        `has COPIED ${copied ? 'set' : 'clear'} and refcount ${refcount}`,
      );
    }
  }

  /** One reference to every host cluster that the extent touches; sectors past the end read as zeroes. */
  private countCompressed(high: number, low: number, paths: number, slot: number): void {
    const { clusterSize, fileLength } = this.layout;
    const { offset, length } = compressedExtent(high, low, this.layout.clusterBits);
    if (high >>> 31 === 1) {
      this.fault(COMPRESSED, offset, slot, 'has COPIED set');
    }
    if (offset + length - fileLength >= clusterSize) {
      this.fault(COMPRESSED, offset, slot, 'is beyond the end of the file');
      return;
    }
    const last = Math.floor((offset + length - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) {
      this.count(COMPRESSED, cluster, paths, slot);
    }
    for (let sector = Math.floor(offset / 512); sector < (offset + length) / 512; sector++) {
      this.sectorReferences[sector] = (this.sectorReferences[sector] ?? 0) + paths;
    }
  }
}

const ZEROES = Buffer.alloc(1 << 16);

function isZero(image: Buffer, start: number, end: number): boolean {
  for (let position = start; position < end; position += ZEROES.length) {
    const stop = Math.min(end, position + ZEROES.length);
    if (image.compare(ZEROES, 0, stop - position, position, stop) !== 0) {
      return false;
    }
  }
  return true;
}
