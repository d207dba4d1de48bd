/** Makes the L2 table that a write needs: a new one where there is none, a copy where a snapshot shares it. */
import { HI_COMPRESSED } from '../format/entries.js';
import { Kind } from '../image/host-clusters.js';
import { Access } from '../recycler/locks.js';
import { clusterOfEntry } from './mapping.js';
import { Table } from './table.js';
import type { WriteContext } from './write-context.js';

export class OwnTables {
  readonly #context: WriteContext;
  /** By index in the L1 table. */
  readonly #making = new Map<number, Promise<void>>();

  constructor(context: WriteContext) {
    this.#context = context;
  }

  /** The table at `l1Index`, which nobody shares. */
  async get(l1Index: number): Promise<Table> {
    const { tables } = this.#context;
    for (;;) {
      if (tables.isOwn(l1Index)) {
        const table = tables.peek(l1Index) ?? (await tables.load(l1Index));
        if (table !== null) return table;
      }
      let making = this.#making.get(l1Index);
      if (making === undefined) {
        making = this.#make(l1Index).finally(() => this.#making.delete(l1Index));
        this.#making.set(l1Index, making);
      }
      await making;
    }
  }

  async #make(l1Index: number): Promise<void> {
    const { tables, allocator, ledger, recycler, geometry } = this.#context;
    const { clusterBytes, entryBytes } = geometry;
    const [cluster] = (await allocator.allocate(1)) as [number];
    const hasTable = tables.place(l1Index) !== 0;
    const bytes = new Uint8Array(clusterBytes);
    let shared: Table | null = null;
    const write = () => recycler.volume.device.write(bytes, cluster * clusterBytes);
    try {
      if (hasTable) {
        // No client changes a shared table, so that the one in memory is the one on disk.
        shared = (await tables.load(l1Index))!;
        shared.holders++;
        bytes.set(shared.bytes);
      }
      // An empty one too, though zeroes are there: a host that has no room for it refuses this write, not a flush.
      await write();
    } catch (error) {
      if (shared !== null) shared.holders--;
      recycler.giveBack([cluster]);
      throw error;
    }
    const l1Cluster = tables.l1.cluster + Math.floor((l1Index * 8) / clusterBytes);
    const releaseL1 = await this.#context.locks.lock(l1Cluster, 1, Access.changing);
    const before = tables.place(l1Index) / clusterBytes;
    // Whoever came through the shared table is done with what it leads to.
    const releaseTable = hasTable ? await this.#context.locks.exclusive(before, 1) : null;
    try {
      // What it names may have moved before the lock was there.
      if (shared !== null && Buffer.compare(bytes, shared.bytes) !== 0) {
        bytes.set(shared.bytes);
        await write();
      }
    } catch (error) {
      recycler.giveBack([cluster]);
      releaseTable?.();
      releaseL1();
      throw error;
    } finally {
      if (shared !== null) shared.holders--;
    }
    ledger.refer([cluster], Kind.l2Table);
    tables.replace(l1Index, new Table(cluster, bytes, entryBytes));
    recycler.tableChanged(l1Cluster);
    if (hasTable) {
      // The pointer must not be on disk before the copy that it names is.
      ledger.order();
      this.#leaveShared(before, tables.peek(l1Index)!);
    }
    releaseTable?.();
    releaseL1();
  }

  /** The active layer has a copy of the table in `cluster` now. */
  #leaveShared(cluster: number, copy: Table): void {
    const { clusters } = this.#context.recycler.volume;
    if (clusters.isAliased(cluster)) this.#aliasTargets(copy);
    else clusters.unmarkActive(cluster);
    this.#context.ledger.drop(cluster);
  }

  /** Another active entry leads to the table, and so to all that the copy names as well. */
  #aliasTargets(copy: Table): void {
    const { recycler, geometry } = this.#context;
    for (let index = 0; index < geometry.entries; index++) {
      if ((copy.hi(index) & HI_COMPRESSED) !== 0) continue;
      const target = clusterOfEntry(geometry, copy, index);
      if (target >= 0) recycler.volume.clusters.markUnflagged(target);
    }
  }
}
