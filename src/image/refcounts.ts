/**
 * The refcounts on disk: every count in memory, and where each refcount block lies. Counts change here
 * first; `writeDirty` brings the changed sectors to disk. No barrier is issued here.
 */
import { type BlockDevice, SECTOR } from '../device/block-device.js';
import {
  countsPerBlock,
  countsPerSector,
  decodeCounts,
  encodeCounts,
  greatestCount,
} from '../format/refcounts.js';
import { clear, isZero, viewOf, writeWord } from '../format/words.js';
import type { Header } from '../format/header.js';
import type { RefcountTable } from './refcount-table.js';

/** Neighbouring changed sectors go out in one write of at most this much. */
const MAX_WRITE = 1 << 20;

export class Refcounts {
  readonly order: number;
  /** Clusters that one refcount block describes. */
  readonly perBlock: number;
  readonly clusterBytes: number;
  tableOffset: number;
  tableClusters: number;
  /** Host offset of each refcount block, in table order; 0 where a range has none (all its counts are 0). */
  blocks: Float64Array;
  /** Indices of the blocks that there are, ascending: few, in a table with room for many. Made anew when asked for. */
  #present: number[] | undefined;
  /** Index of each block by its host offset; made when the first one is looked for. */
  #indexAt: Map<number, number> | undefined;
  /** Capacity for the clusters that the file had; zeroes from `#clusterCount` on. */
  #counts: Uint32Array;
  #clusterCount: number;
  readonly #perSector: number;
  readonly #greatest: number;
  /** Sectors of counts (numbered through all blocks) that differ from the disk. */
  readonly #dirty = new Set<number>();
  /** Sectors with counts beyond the end of the file: leaks that `qemu-img check` does not see (hazard 3.6). */
  readonly #stale = new Set<number>();

  constructor(header: Header, { blocks, present }: RefcountTable, clusterCount: number) {
    this.order = header.refcountOrder;
    this.clusterBytes = header.clusterBytes;
    this.perBlock = countsPerBlock(header.clusterBytes, header.refcountOrder);
    this.#perSector = countsPerSector(header.refcountOrder);
    this.#greatest = greatestCount(header.refcountOrder);
    this.tableOffset = header.refcountTableOffset;
    this.tableClusters = header.refcountTableClusters;
    this.blocks = blocks;
    this.#present = present;
    this.#counts = new Uint32Array(clusterCount);
    this.#clusterCount = clusterCount;
  }

  /** The counts by cluster, for hot loops that only read; `resize` may put others in their place. */
  get counts(): Uint32Array {
    return this.#counts;
  }

  get(cluster: number): number {
    return this.#counts[cluster] ?? 0;
  }

  /** Changes a count in memory; a cluster in a range without a block can only have 0. */
  set(cluster: number, count: number): void {
    if (this.get(cluster) === count) return;
    if (!this.covers(cluster)) throw new Error(`no refcount block describes cluster ${cluster}`);
    // Cut to its width it would be lower than the references are (I3).
    if (count > this.#greatest) throw new Error(`the refcount of cluster ${cluster} cannot be ${count}`);
    this.#counts[cluster] = count;
    this.#dirty.add(Math.floor(cluster / this.#perSector));
  }

  /** Indices of the blocks that there are, ascending. */
  get present(): readonly number[] {
    this.#present ??= [...this.blocks.keys()].filter((index) => this.blocks[index] !== 0);
    return this.#present;
  }

  /** Index of the block at `hostOffset`; -1 where there is none. */
  indexOfBlock(hostOffset: number): number {
    this.#indexAt ??= new Map(this.present.map((index) => [this.blocks[index]!, index]));
    return this.#indexAt.get(hostOffset) ?? -1;
  }

  /** Whether a refcount block describes `cluster`. */
  covers(cluster: number): boolean {
    return (this.blocks[Math.floor(cluster / this.perBlock)] ?? 0) !== 0;
  }

  get hasStale(): boolean {
    return this.#stale.size > 0;
  }

  /** Counts beyond the end of the file become zero with the next write. */
  dropStale(): void {
    for (const sector of this.#stale) this.#dirty.add(sector);
    this.#stale.clear();
  }

  /** Changes the number of clusters that have a count in memory; new ones have 0. */
  resize(clusterCount: number): void {
    if (clusterCount > this.#counts.length) {
      const counts = new Uint32Array(clusterCount);
      counts.set(this.#counts);
      this.#counts = counts;
    } else clear(this.#counts, clusterCount, this.#clusterCount);
    this.#clusterCount = clusterCount;
  }

  /** Takes the counts of block `index` from its bytes as they are on disk. */
  load(index: number, bytes: Uint8Array): void {
    const first = index * this.perBlock;
    const known = Math.max(0, Math.min(this.perBlock, this.#clusterCount - first));
    if (isZero(bytes)) clear(this.#counts, first, first + known);
    else {
      decodeCounts(bytes, this.order, this.#counts.subarray(first, first + known));
      if (known < this.perBlock) this.#findStale(index, bytes, known);
    }
  }

  /** Notes the sectors of block `index` with counts after the first `known`, which are those of the file. */
  #findStale(index: number, bytes: Uint8Array, known: number): void {
    const sectors = this.clusterBytes / SECTOR;
    const beyond = new Uint32Array(this.#perSector);
    const shared = Math.floor(known / this.#perSector);
    for (let sector = shared; sector < sectors; sector++) {
      const content = bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
      if (isZero(content)) continue;
      decodeCounts(content, this.order, beyond);
      const from = sector === shared ? known % this.#perSector : 0;
      if (beyond.subarray(from).some((count) => count !== 0)) this.#stale.add(index * sectors + sector);
    }
  }

  /** A new block for a range that had none: all counts 0, but its own 1 if it lies in its range. */
  addBlock(index: number, hostOffset: number): void {
    const cluster = hostOffset / this.clusterBytes;
    this.#place(index, hostOffset);
    // The block is yet to be written as a whole; the one that describes it is not.
    if (Math.floor(cluster / this.perBlock) === index) this.#counts[cluster] = 1;
    else this.set(cluster, 1);
  }

  /** Block `index` lies at `hostOffset` from now on. */
  blockMoved(index: number, hostOffset: number): void {
    this.#place(index, hostOffset);
  }

  #place(index: number, hostOffset: number): void {
    const before = this.blocks[index]!;
    this.blocks[index] = hostOffset;
    if (before === 0 || hostOffset === 0) this.#present = undefined;
    this.#indexAt?.delete(before);
    if (hostOffset !== 0) this.#indexAt?.set(hostOffset, index);
  }

  /** The range of block `index` has no counts any more. */
  removeBlock(index: number): void {
    this.#place(index, 0);
    clear(this.#counts, index * this.perBlock, Math.min(this.#clusterCount, (index + 1) * this.perBlock));
    const sectors = this.clusterBytes / SECTOR;
    for (let sector = index * sectors; sector < (index + 1) * sectors; sector++) this.#dirty.delete(sector);
  }

  /** The table in memory gets room for more entries; where it lies is the caller's to change. */
  growTable(clusters: number): void {
    const blocks = new Float64Array((clusters * this.clusterBytes) / 8);
    blocks.set(this.blocks);
    this.blocks = blocks;
  }

  /** The table keeps its first `clusters` clusters. */
  shrinkTable(clusters: number): void {
    this.tableClusters = clusters;
    this.blocks = this.blocks.slice(0, (clusters * this.clusterBytes) / 8);
    this.#present = undefined;
    this.#indexAt = undefined;
  }

  get hasDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** The whole of block `index` as it should be on disk. */
  encodeBlock(index: number): Uint8Array {
    return this.#encode(index * this.perBlock, this.clusterBytes);
  }

  #encode(firstCluster: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes);
    const counts = (lengthBytes / SECTOR) * this.#perSector;
    encodeCounts(bytes, this.order, this.#counts.subarray(firstCluster, firstCluster + counts));
    return bytes;
  }

  /** Writes every changed sector to the block that describes it, neighbours together. */
  async writeDirty(device: BlockDevice): Promise<void> {
    const perBlock = this.clusterBytes / SECTOR;
    const sectors = [...this.#dirty].sort((a, b) => a - b);
    for (let i = 0; i < sectors.length;) {
      const first = sectors[i]!;
      const block = Math.floor(first / perBlock);
      let end = i + 1;
      while (
        end < sectors.length &&
        sectors[end]! === first + (end - i) &&
        Math.floor(sectors[end]! / perBlock) === block &&
        (end - i + 1) * SECTOR <= MAX_WRITE
      ) {
        end++;
      }
      const at = this.blocks[block]!;
      // Before the write: a count that changes while it is under way has to be written again.
      for (let k = i; k < end; k++) this.#dirty.delete(sectors[k]!);
      // A block that was released meanwhile: its counts are zero by its absence.
      if (at !== 0) {
        const bytes = this.#encode(first * this.#perSector, (end - i) * SECTOR);
        try {
          await device.write(bytes, at + (first % perBlock) * SECTOR);
        } catch (error) {
          for (let k = i; k < end; k++) this.#dirty.add(sectors[k]!);
          throw error;
        }
      }
      i = end;
    }
  }

  /** The refcount table as it should be on disk: the first `clusters` clusters of it. */
  encodeTable(clusters: number): Uint8Array {
    return this.#encodeEntries(0, clusters * this.clusterBytes);
  }

  /** One sector of the refcount table as it should be on disk. */
  encodeTableSector(sector: number): Uint8Array {
    return this.#encodeEntries(sector * (SECTOR / 8), SECTOR);
  }

  #encodeEntries(first: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes);
    const view = viewOf(bytes);
    for (let at = 0; at < lengthBytes; at += 8) writeWord(view, at, this.blocks[first + at / 8] ?? 0);
    return bytes;
  }

  /** Host offset of the table's entry `index`. */
  slotOf(index: number): number {
    return this.tableOffset + index * 8;
  }
}
