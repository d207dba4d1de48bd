/**
 * Zeroes and discards: whole clusters by their entries, the rest as a write (recycler contract C62). What is discarded
 * reads as zeroes.
 */
import { LO_ZERO } from '../format/entries.js';
import { Pace } from '../pace.js';
import { ZEROES } from '../recycler/zeroes.js';
import { lockEntries } from './entry-locks.js';
import { EVERY_UNIT } from './geometry.js';
import { clusterOfEntry, ownsCluster } from './mapping.js';
import type { OwnTables } from './own-table.js';
import type { Table } from './table.js';
import type { WriteContext } from './write-context.js';
import type { Writer } from './writer.js';

/** What an entry is to say. */
interface Entry {
  hi: number;
  lo: number;
  zero: number;
  allocated: number;
  /** It lets go of the host clusters that it has. */
  drops: boolean;
}

export class Zeroer {
  readonly #context: WriteContext;
  readonly #ownTables: OwnTables;
  readonly #writer: Writer;

  constructor(context: WriteContext, ownTables: OwnTables, writer: Writer) {
    this.#context = context;
    this.#ownTables = ownTables;
    this.#writer = writer;
  }

  /** `mayUnmap`: clusters are given up; else those that nobody shares stay, for the guest's next writes. */
  async zero(offset: number, lengthBytes: number, mayUnmap: boolean): Promise<void> {
    const { geometry, source } = this.#context;
    const { clusterBytes, sizeBytes } = geometry;
    const end = offset + lengthBytes;
    // Version 2 has no entry that hides a backing file, or keeps a cluster that reads as zeroes.
    if (!geometry.canZero && (source.backing !== null || !mayUnmap)) return this.#writeZeroes(offset, end);
    const first = Math.ceil(offset / clusterBytes);
    // The last cluster is whole where the disk ends in it.
    const last = end === sizeBytes ? Math.ceil(end / clusterBytes) : Math.floor(end / clusterBytes);
    if (first >= last) return this.#writeZeroes(offset, end);
    await this.#writeZeroes(offset, first * clusterBytes);
    const pace = new Pace();
    for (let cluster = first; cluster < last;) {
      if (pace.isOver) await pace.giveWay();
      const bare = this.#bareClusters(cluster, last);
      if (bare > 0) {
        cluster += bare;
        continue;
      }
      const tableEnd = (Math.floor(cluster / geometry.entries) + 1) * geometry.entries;
      const next = Math.min(last, tableEnd);
      await this.#zeroClusters(cluster, next, mayUnmap, pace);
      await this.#context.relieve();
      cluster = next;
    }
    await this.#writeZeroes(last * clusterBytes, end);
  }

  /** From `first` on, before `end`: that no table maps, where nothing shows through. */
  #bareClusters(first: number, end: number): number {
    const { geometry, source, tables } = this.#context;
    const { clusterBytes } = geometry;
    if (source.backing !== null && first * clusterBytes < source.backing.sizeBytes) return 0;
    const bytes = tables.lengthWithoutTable(first * clusterBytes, (end - first) * clusterBytes);
    return bytes / clusterBytes;
  }

  /** As data, except where it reads as zeroes already. */
  async #writeZeroes(offset: number, end: number): Promise<void> {
    for (let at = offset; at < end;) {
      const run = await this.#context.tables.runAt(at, Math.min(end - at, ZEROES.length));
      if (!this.#context.isBlank(run.content, at))
        await this.#writer.write(ZEROES.subarray(0, run.lengthBytes), at);
      at += run.lengthBytes;
    }
  }

  /** Guest clusters [first, end) of one table. */
  async #zeroClusters(first: number, end: number, mayUnmap: boolean, pace: Pace): Promise<void> {
    const { guestLocks, tables, geometry } = this.#context;
    const release = await guestLocks.exclusive(first, end - first);
    try {
      const before = await tables.load(Math.floor(first / geometry.entries));
      for (let cluster = first; cluster < end;) {
        if (pace.isOver) await pace.giveWay();
        // A table is made, or copied, only where something changes in it.
        if (this.#wanted(before, cluster, mayUnmap) === null) cluster++;
        else cluster += await this.#zeroStretch(cluster, end, mayUnmap);
      }
    } finally {
      release();
    }
  }

  async #zeroStretch(first: number, end: number, mayUnmap: boolean): Promise<number> {
    const { geometry, ledger } = this.#context;
    const { table, count, release } = await lockEntries(this.#context, this.#ownTables, first, end - first);
    for (let cluster = first; cluster < first + count; cluster++) {
      const wanted = this.#wanted(table, cluster, mayUnmap);
      if (wanted === null) continue;
      const index = cluster % geometry.entries;
      const [hi, lo] = [table.hi(index), table.lo(index)];
      this.#context.setEntry(table, cluster, wanted.hi, wanted.lo, wanted.zero, wanted.allocated);
      if (wanted.drops) ledger.dropEntry(hi, lo);
    }
    release();
    return count;
  }

  /** What the entry is to say; null where it may stay as it is. */
  #wanted(table: Table | null, guestCluster: number, mayUnmap: boolean): Entry | null {
    const { geometry, source } = this.#context;
    const { backing } = source;
    const shows = backing !== null && guestCluster * geometry.clusterBytes < backing.sizeBytes;
    if (table === null) return shows ? this.#zeroEntry(false) : null;
    const index = guestCluster % geometry.entries;
    const hi = table.hi(index);
    const lo = table.lo(index);
    const { clusterBytes } = geometry;
    const isOwn = ownsCluster(geometry, table, index);
    const isBlank = this.#context.isBlankStretch(table, guestCluster * clusterBytes, clusterBytes);
    if (isOwn && !mayUnmap) {
      if (isBlank) return null;
      const flag = geometry.isExtended ? 0 : LO_ZERO;
      const zero = geometry.isExtended ? EVERY_UNIT : 0;
      return { hi, lo: (lo | flag) >>> 0, zero, allocated: 0, drops: false };
    }
    if (isBlank && (!mayUnmap || clusterOfEntry(geometry, table, index) < 0)) return null;
    return shows ? this.#zeroEntry(true) : { hi: 0, lo: 0, zero: 0, allocated: 0, drops: true };
  }

  #zeroEntry(drops: boolean): Entry {
    const { isExtended } = this.#context.geometry;
    return { hi: 0, lo: isExtended ? 0 : LO_ZERO, zero: isExtended ? EVERY_UNIT : 0, allocated: 0, drops };
  }
}
