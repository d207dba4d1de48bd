/**
 * Writes that change entries: a cluster gets a place, or a new one since the present place is shared or compressed, or the
 * entry has one already of which nothing is read yet. The data are written first, and the entry follows.
 */
import { HI_COPIED, LO_ZERO } from '../format/entries.js';
import { TWO_32 } from '../format/words.js';
import { Kind } from '../image/host-clusters.js';
import { Access } from '../recycler/locks.js';
import { lockEntries, lockTable } from './entry-locks.js';
import { EVERY_UNIT, SUBCLUSTERS } from './geometry.js';
import { Content, clusterOfEntry, ownsCluster } from './mapping.js';
import type { OwnTables } from './own-table.js';
import { lockBehind } from './passage.js';
import type { Table } from './table.js';
import type { WriteContext } from './write-context.js';

/** What one step gives places at most. */
export const STEP_BYTES = 4 << 20;

/** A guest cluster that gets a place, and the part of it that is written. */
interface Placement {
  guestCluster: number;
  /** Bytes of the cluster [from, to) that the guest writes. */
  from: number;
  to: number;
  /** All of it reads as zeroes, as the new place does. */
  isBlank: boolean;
}

export class Placer {
  readonly #context: WriteContext;
  readonly #ownTables: OwnTables;

  constructor(context: WriteContext, ownTables: OwnTables) {
    this.#context = context;
    this.#ownTables = ownTables;
  }

  /**
   * Writes clusters from `guest` on, as many as need it, within one table. Answers the bytes written; none where it is
   * not needed any more, since somebody else was faster.
   */
  async place(source: Uint8Array, guest: number): Promise<number> {
    const { clusterBytes, tableBytes } = this.#context.geometry;
    const length = Math.min(source.length, tableBytes - (guest % tableBytes), STEP_BYTES);
    const first = Math.floor(guest / clusterBytes);
    const last = Math.floor((guest + length - 1) / clusterBytes);
    const release = await this.#context.guestLocks.exclusive(first, last - first + 1);
    try {
      const run = await this.#context.tables.runAt(guest, length);
      if (run.content === Content.data && run.isOwn) return 0;
      const table = await this.#ownTables.get(this.#context.tables.l1Index(guest));
      if (this.#hasOwnCluster(table, first)) {
        const part = Math.min(run.lengthBytes, clusterBytes - (guest % clusterBytes));
        await this.#complete(source.subarray(0, part), guest);
        return part;
      }
      const placements = this.#placements(table, guest, length);
      await this.#writePlaced(source, guest, placements);
      const end = placements.at(-1)!;
      return end.guestCluster * clusterBytes + end.to - guest;
    } finally {
      release();
    }
  }

  /** The entry has a cluster that nobody shares, though it is not, or not all of it, read. */
  #hasOwnCluster(table: Table, guestCluster: number): boolean {
    const { geometry } = this.#context;
    return ownsCluster(geometry, table, guestCluster % geometry.entries);
  }

  /** Clusters from `guest` on that need a place, as many as follow each other. */
  #placements(table: Table, guest: number, lengthBytes: number): Placement[] {
    const { clusterBytes } = this.#context.geometry;
    const placements: Placement[] = [];
    for (let at = 0; at < lengthBytes;) {
      const guestCluster = Math.floor((guest + at) / clusterBytes);
      if (placements.length > 0 && this.#hasOwnCluster(table, guestCluster)) break;
      const from = (guest + at) % clusterBytes;
      const to = Math.min(clusterBytes, from + lengthBytes - at);
      placements.push({ guestCluster, from, to, isBlank: this.#isBlank(table, guestCluster) });
      at += to - from;
    }
    return placements;
  }

  /** Of a whole cluster; what lies beyond the end of the disk is nothing. */
  #isBlank(table: Table, guestCluster: number): boolean {
    const { clusterBytes, sizeBytes } = this.#context.geometry;
    const start = guestCluster * clusterBytes;
    return this.#context.isBlankStretch(table, start, Math.min(clusterBytes, sizeBytes - start));
  }

  async #writePlaced(source: Uint8Array, guest: number, placements: readonly Placement[]): Promise<void> {
    const { allocator, recycler } = this.#context;
    const places = await allocator.allocate(placements.length);
    let referred = 0;
    try {
      await this.#writeData(source, guest, placements, places);
      for (; referred < places.length; referred++)
        await this.#refer(placements[referred]!, places[referred]!);
    } catch (error) {
      recycler.giveBack(places.slice(referred));
      throw error;
    }
  }

  /** Neighbouring places in one write; a cluster that keeps something of what it was is written whole. */
  async #writeData(
    source: Uint8Array,
    guest: number,
    placements: readonly Placement[],
    places: readonly number[],
  ): Promise<void> {
    const { device, geometry } = this.#context;
    const { clusterBytes } = geometry;
    const positionOf = ({ guestCluster }: Placement, within: number) =>
      guestCluster * clusterBytes + within - guest;
    for (let i = 0; i < placements.length;) {
      const { from, to } = placements[i]!;
      const at = positionOf(placements[i]!, from);
      let next = i + 1;
      if (this.#keepsOld(placements[i]!)) {
        const part = source.subarray(at, at + to - from);
        await device.write(await this.#merged(placements[i]!, part), places[i]! * clusterBytes);
      } else {
        while (
          next < places.length &&
          places[next] === places[next - 1]! + 1 &&
          !this.#keepsOld(placements[next]!)
        ) {
          next++;
        }
        const last = placements[next - 1]!;
        await device.write(source.subarray(at, positionOf(last, last.to)), places[i]! * clusterBytes + from);
      }
      i = next;
    }
  }

  /** What is not written of it is something else than zeroes. */
  #keepsOld({ guestCluster, from, to, isBlank }: Placement): boolean {
    const { clusterBytes, sizeBytes } = this.#context.geometry;
    return !isBlank && (from > 0 || to < Math.min(clusterBytes, sizeBytes - guestCluster * clusterBytes));
  }

  /** The whole cluster as the guest is to see it. */
  async #merged({ guestCluster, from }: Placement, part: Uint8Array): Promise<Uint8Array> {
    const { clusterBytes, sizeBytes } = this.#context.geometry;
    const start = guestCluster * clusterBytes;
    const cluster = new Uint8Array(clusterBytes);
    await this.#context.source.read(cluster.subarray(0, Math.min(clusterBytes, sizeBytes - start)), start);
    cluster.set(part, from);
    return cluster;
  }

  /** The entry names the new place, and lets go of the old one, where nobody reads any more. */
  async #refer({ guestCluster, from, to, isBlank }: Placement, place: number): Promise<void> {
    const { geometry, ledger } = this.#context;
    const { table, release } = await lockEntries(this.#context, this.#ownTables, guestCluster, 1);
    const index = guestCluster % geometry.entries;
    const [hi, lo] = [table.hi(index), table.lo(index)];
    let allocated = 0;
    let zero = 0;
    if (geometry.isExtended) {
      const { unitBytes } = geometry;
      // What was something is written whole.
      allocated = isBlank ? unitMask(Math.floor(from / unitBytes), Math.ceil(to / unitBytes)) : EVERY_UNIT;
      zero = (table.zeroBits(index) & ~allocated) >>> 0;
    }
    ledger.refer([place], Kind.data);
    // A place that shows what is not durable yet, instead of something else, is not named before it is (I4).
    if (!isBlank) ledger.order();
    const offset = place * geometry.clusterBytes;
    const high = (HI_COPIED | Math.floor(offset / TWO_32)) >>> 0;
    this.#context.setEntry(table, guestCluster, high, offset % TWO_32, zero, allocated);
    ledger.dropEntry(hi, lo);
    release();
  }

  /**
   * Writes into the cluster that the entry has, of whose parts at `guest` nothing is read: they are filled, since they hold
   * anything, and the entry says so when that is durable.
   */
  async #complete(bytes: Uint8Array, guest: number): Promise<void> {
    const { geometry, tables, locks, recycler, device, ledger } = this.#context;
    const { clusterBytes, unitBytes, sizeBytes } = geometry;
    const guestCluster = Math.floor(guest / clusterBytes);
    const index = guestCluster % geometry.entries;
    const start = guest - (guest % unitBytes);
    const filled = new Uint8Array(Math.ceil((guest + bytes.length - start) / unitBytes) * unitBytes);
    if (filled.length > bytes.length) {
      await this.#context.source.read(filled.subarray(0, Math.min(filled.length, sizeBytes - start)), start);
    }
    filled.set(bytes, guest - start);
    for (let isWritten = false; !isWritten;) {
      const table = await this.#ownTables.get(tables.l1Index(guest));
      const cluster = clusterOfEntry(geometry, table, index);
      const passed = table.cluster;
      const release = await lockBehind(locks, passed, cluster, 1, Access.changing);
      try {
        // It may have moved while the locks were waited for.
        const isStill = tables.peek(tables.l1Index(guest)) === table && table.cluster === passed;
        if (!isStill || clusterOfEntry(geometry, table, index) !== cluster) continue;
        recycler.cancel(cluster);
        await device.write(filled, cluster * clusterBytes + (start % clusterBytes));
        isWritten = true;
      } finally {
        release();
      }
    }
    const { table, release } = await lockTable(this.#context, this.#ownTables, tables.l1Index(guest));
    let [zero, allocated] = [0, 0];
    if (geometry.isExtended) {
      const first = (start % clusterBytes) / unitBytes;
      const units = unitMask(first, first + filled.length / unitBytes);
      zero = (table.zeroBits(index) & ~units) >>> 0;
      allocated = (table.allocatedBits(index) | units) >>> 0;
    }
    ledger.order();
    const lo = (table.lo(index) & ~LO_ZERO) >>> 0;
    this.#context.setEntry(table, guestCluster, table.hi(index), lo, zero, allocated);
    release();
  }
}

/** Bits of the parts [first, end) of a cluster. */
function unitMask(first: number, end: number): number {
  const below = (count: number) => (count >= SUBCLUSTERS ? EVERY_UNIT : (1 << count) - 1);
  return (below(end) & ~below(first)) >>> 0;
}
