/** What all that changes the disk works with. */
import type { BlockDevice } from '../device/block-device.js';
import { RangeLocks } from '../recycler/locks.js';
import type { Recycler } from '../recycler/recycler.js';
import type { Allocator } from './allocator.js';
import type { Geometry } from './geometry.js';
import type { Ledger } from './ledger.js';
import { Content, runAt } from './mapping.js';
import type { Qcow2Source } from './qcow2-source.js';
import type { Table } from './table.js';
import type { Tables } from './tables.js';

export class WriteContext {
  readonly geometry: Geometry;
  /**
   * On guest clusters whose entries are about to change, so that no two requests give one a place. Taken before all locks
   * of the recycler, its metadata lock included.
   */
  readonly guestLocks = new RangeLocks();
  /** Writes what is to be written where there is too much of it in memory. Called without a lock on clusters of the file. */
  relieve: () => Promise<void> = () => Promise.resolve();

  constructor(
    readonly recycler: Recycler,
    readonly tables: Tables,
    readonly source: Qcow2Source,
    readonly ledger: Ledger,
    readonly allocator: Allocator,
  ) {
    this.geometry = tables.geometry;
  }

  get device(): BlockDevice {
    return this.recycler.volume.device;
  }

  get locks(): RangeLocks {
    return this.recycler.locks;
  }

  /** A stretch of `content` from `guest` on reads as zeroes, and no backing file shows through. */
  isBlank(content: Content, guest: number): boolean {
    if (content === Content.zero) return true;
    const { backing } = this.source;
    return content === Content.unallocated && (backing === null || guest >= backing.sizeBytes);
  }

  /** The whole stretch, which `table` maps. */
  isBlankStretch(table: Table, guest: number, lengthBytes: number): boolean {
    for (let at = guest; at < guest + lengthBytes;) {
      const run = runAt(this.geometry, table, at, guest + lengthBytes - at);
      if (!this.isBlank(run.content, at)) return false;
      at += run.lengthBytes;
    }
    return true;
  }

  /** The entry of guest cluster `guestCluster` changes, in a table that nobody shares. */
  setEntry(table: Table, guestCluster: number, hi: number, lo: number, zero = 0, allocated = 0): void {
    table.set(guestCluster % this.geometry.entries, hi, lo, zero, allocated);
    this.tables.changed(table);
    this.recycler.tableChanged(table.cluster);
  }
}
