/**
 * The active L1 table, and the L2 tables that it leads to as far as they are wanted: a cache of bounded bytes, written
 * back by a flush. Who changes an entry looks its table up, and changes it, without an await between.
 */
import { type BlockDevice, SECTOR } from '../device/block-device.js';
import { HI_COPIED, entryOffset } from '../format/entries.js';
import { TWO_32 } from '../format/words.js';
import type { Header } from '../format/header.js';
import type { LiveTable, LiveTables } from '../recycler/live-tables.js';
import { Access, type RangeLocks } from '../recycler/locks.js';
import type { Geometry } from './geometry.js';
import { type Run, runAt } from './mapping.js';
import { type DirtySpan, Table } from './table.js';

/** What a table takes beside its bytes. */
const OVERHEAD_BYTES = 512;

/** Sectors of one table that are on their way to disk. */
export interface TableWrites {
  table: Table;
  spans: DirtySpan[];
}

export class Tables implements LiveTables {
  readonly geometry: Geometry;
  readonly l1: Table;
  readonly #device: BlockDevice;
  readonly #locks: RangeLocks;
  readonly #mostTables: number;
  /** By index in the L1 table. The order is that of a clock's hand. */
  readonly #cached = new Map<number, Table>();
  readonly #loading = new Map<number, Promise<void>>();
  readonly #dirty = new Set<Table>();

  private constructor(
    device: BlockDevice,
    locks: RangeLocks,
    geometry: Geometry,
    l1: Table,
    cacheBytes: number,
  ) {
    this.#device = device;
    this.#locks = locks;
    this.geometry = geometry;
    this.l1 = l1;
    this.#mostTables = Math.max(2, Math.floor(cacheBytes / (geometry.clusterBytes + OVERHEAD_BYTES)));
  }

  static async open(
    device: BlockDevice,
    locks: RangeLocks,
    geometry: Geometry,
    header: Header,
    cacheBytes: number,
  ): Promise<Tables> {
    // Whole sectors are written: what follows the last entry in its own stays as it is.
    const bytes = new Uint8Array(Math.ceil((header.l1Entries * 8) / SECTOR) * SECTOR);
    if (bytes.length > 0) await device.read(bytes, header.l1Offset);
    const l1 = new Table(header.l1Offset / header.clusterBytes, bytes, 8);
    return new Tables(device, locks, geometry, l1, cacheBytes);
  }

  /** Which entry of the L1 table leads to `guest`. */
  l1Index(guest: number): number {
    return Math.floor(guest / this.geometry.tableBytes);
  }

  /** Host offset of the L2 table; 0 where there is none. */
  place(l1Index: number): number {
    return entryOffset(this.l1.hi(l1Index), this.l1.lo(l1Index));
  }

  /** How far from `guest` on no L2 table is, at most `mostBytes`. */
  lengthWithoutTable(guest: number, mostBytes: number): number {
    const { tableBytes } = this.geometry;
    const end = guest + mostBytes;
    let at = guest;
    while (at < end && this.place(this.l1Index(at)) === 0) at += tableBytes - (at % tableBytes);
    return Math.min(at, end) - guest;
  }

  /** The L2 table for `guest` is in host cluster `cluster`: who waited for a lock there may find that it has moved. */
  isAt(guest: number, cluster: number): boolean {
    return this.place(this.l1Index(guest)) === cluster * this.geometry.clusterBytes;
  }

  /** The table may be changed: no snapshot shares it. */
  isOwn(l1Index: number): boolean {
    return (this.l1.hi(l1Index) & HI_COPIED) !== 0;
  }

  /** The table, null where there is none, undefined where it is yet to be read. */
  peek(l1Index: number): Table | null | undefined {
    const table = this.#cached.get(l1Index);
    if (table === undefined) return this.place(l1Index) === 0 ? null : undefined;
    table.isRecent = true;
    return table;
  }

  /** The same, read where it has to be. It may have changed again when the caller goes on: look again. */
  async load(l1Index: number): Promise<Table | null> {
    for (;;) {
      const table = this.peek(l1Index);
      if (table !== undefined) return table;
      let loading = this.#loading.get(l1Index);
      if (loading === undefined) {
        loading = this.#read(l1Index).finally(() => this.#loading.delete(l1Index));
        this.#loading.set(l1Index, loading);
      }
      await loading;
    }
  }

  /** The run at `guest` by the table that is in memory; null where that is to be read first. */
  peekRun(guest: number, mostBytes: number): Run | null {
    const table = this.peek(this.l1Index(guest));
    return table === undefined ? null : runAt(this.geometry, table, guest, mostBytes);
  }

  /** The same, the table read where it has to be. */
  async runAt(guest: number, mostBytes: number): Promise<Run> {
    const l1Index = this.l1Index(guest);
    const table = this.peek(l1Index);
    return runAt(this.geometry, table === undefined ? await this.load(l1Index) : table, guest, mostBytes);
  }

  async #read(l1Index: number): Promise<void> {
    const { clusterBytes, entryBytes } = this.geometry;
    const offset = this.place(l1Index);
    const cluster = offset / clusterBytes;
    const release = await this.#locks.lock(cluster, 1, Access.passing);
    try {
      const bytes = new Uint8Array(clusterBytes);
      await this.#device.read(bytes, offset);
      // It was elsewhere by the time that the lock was there.
      if (this.place(l1Index) === offset) this.#keep(l1Index, new Table(cluster, bytes, entryBytes));
    } finally {
      release();
    }
  }

  /** From now on the L1 table leads to `table`, which nobody shares. */
  replace(l1Index: number, table: Table): void {
    const offset = table.cluster * this.geometry.clusterBytes;
    this.l1.set(l1Index, (HI_COPIED | Math.floor(offset / TWO_32)) >>> 0, offset % TWO_32);
    this.#dirty.add(this.l1);
    this.#cached.delete(l1Index);
    this.#keep(l1Index, table);
  }

  /** The caller has changed entries of it. */
  changed(table: Table): void {
    this.#dirty.add(table);
  }

  #keep(l1Index: number, table: Table): void {
    for (let looks = this.#cached.size; this.#cached.size >= this.#mostTables && looks > 0; looks--) {
      const [oldest, candidate] = this.#cached.entries().next().value!;
      this.#cached.delete(oldest);
      if (!candidate.isRecent && !isNeeded(candidate)) continue;
      candidate.isRecent = false;
      this.#cached.set(oldest, candidate);
    }
    this.#cached.set(l1Index, table);
  }

  /** Half of the cache is to be written: no more can be forgotten until it is. */
  get isFullOfChanges(): boolean {
    return this.#dirty.size * 2 > this.#mostTables;
  }

  /** L2 tables in memory. */
  get cachedTables(): number {
    return this.#cached.size;
  }

  get hasChanges(): boolean {
    return this.#dirty.size > 0;
  }

  /** Tables with changes that are still to be written. */
  get dirty(): Iterable<Table> {
    return this.#dirty;
  }

  index(): (cluster: number) => readonly LiveTable[] {
    const { clusterBytes } = this.geometry;
    const found = new Map<number, LiveTable[]>();
    const note = (table: Table, cluster: number, from: number) => {
      const at = found.get(cluster) ?? [];
      at.push({ bytes: table.bytes, from, isDirtyAt: (position) => table.isDirtyAt(position) });
      found.set(cluster, at);
    };
    for (let from = 0; from < this.l1.bytes.length; from += clusterBytes)
      note(this.l1, this.l1.cluster + from / clusterBytes, from);
    for (const table of this.#cached.values()) note(table, table.cluster, 0);
    return (cluster) => found.get(cluster) ?? [];
  }

  moved(source: number, destination: number): void {
    for (const table of this.#cached.values()) if (table.cluster === source) table.cluster = destination;
  }

  /** The changes so far, on their way to disk: `written` or `putBack` follows. */
  takeDirty(): TableWrites[] {
    const writes: TableWrites[] = [];
    for (const table of this.#dirty) {
      table.isWriting = true;
      writes.push({ table, spans: table.takeDirty() });
    }
    this.#dirty.clear();
    return writes;
  }

  written(writes: readonly TableWrites[]): void {
    for (const { table } of writes) table.isWriting = false;
  }

  putBack(writes: readonly TableWrites[]): void {
    for (const { table, spans } of writes) {
      table.putBack(spans);
      this.#dirty.add(table);
    }
    this.written(writes);
  }
}

/** What is in memory only, or about to be. */
function isNeeded(table: Table): boolean {
  return table.isDirty || table.isWriting || table.holders > 0;
}
