/** Locks for changing entries of the active layer: nobody copies the table, nobody uses what the entries let go of. */
import { HI_COMPRESSED } from '../format/entries.js';
import { Access } from '../recycler/locks.js';
import type { Geometry } from './geometry.js';
import { type HostRange, hostRangeOf } from './mapping.js';
import type { OwnTables } from './own-table.js';
import type { Release } from './passage.js';
import type { Table } from './table.js';
import type { WriteContext } from './write-context.js';

/** Neighbouring entries that may be changed until `release`, without an await. */
export interface LockedEntries {
  table: Table;
  /** From the first on: all without a host cluster, or with neighbouring ones. */
  count: number;
  release: Release;
}

/** The caller holds the guest clusters, so that nobody else changes their entries; they may still move. */
export async function lockEntries(
  { tables, locks, geometry }: WriteContext,
  ownTables: OwnTables,
  guestCluster: number,
  mostCount: number,
): Promise<LockedEntries> {
  const l1Index = Math.floor(guestCluster / geometry.entries);
  const index = guestCluster % geometry.entries;
  for (;;) {
    const table = await ownTables.get(l1Index);
    const { cluster } = table;
    const releaseTable = await locks.lock(cluster, 1, Access.changing);
    const isStill = () => table.cluster === cluster && tables.peek(l1Index) === table;
    if (isStill()) {
      const { range, count } = rangeOf(geometry, table, index, mostCount);
      if (range.count === 0) return held(table, count, releaseTable);
      const releaseData = await locks.exclusive(range.first, range.count);
      const now = rangeOf(geometry, table, index, mostCount);
      const isSame = now.range.first === range.first && now.count === count;
      if (isStill() && isSame) {
        return held(table, count, () => {
          releaseData();
          releaseTable();
        });
      }
      releaseData();
    }
    releaseTable();
  }
}

/** The same of a table alone, for changes that let go of nothing. */
export async function lockTable(
  { tables, locks }: WriteContext,
  ownTables: OwnTables,
  l1Index: number,
): Promise<LockedEntries> {
  for (;;) {
    const table = await ownTables.get(l1Index);
    const { cluster } = table;
    const release = await locks.lock(cluster, 1, Access.changing);
    if (table.cluster === cluster && tables.peek(l1Index) === table) return held(table, 0, release);
    release();
  }
}

/** The table stays in memory until `release`. */
function held(table: Table, count: number, release: Release): LockedEntries {
  table.holders++;
  return {
    table,
    count,
    release() {
      table.holders--;
      release();
    },
  };
}

function rangeOf(
  geometry: Geometry,
  table: Table,
  index: number,
  mostCount: number,
): { range: HostRange; count: number } {
  const range = hostRange(geometry, table, index);
  let count = 1;
  if (!isCompressed(table, index)) {
    while (count < mostCount && !isCompressed(table, index + count)) {
      const next = hostRange(geometry, table, index + count);
      if (next.count !== (range.count === 0 ? 0 : 1)) break;
      if (next.count === 1 && next.first !== range.first + range.count) break;
      range.count += next.count;
      count++;
    }
  }
  return { range, count };
}

function isCompressed(table: Table, index: number): boolean {
  return (table.hi(index) & HI_COMPRESSED) !== 0;
}

function hostRange(geometry: Geometry, table: Table, index: number): HostRange {
  return hostRangeOf(geometry, table.hi(index), table.lo(index));
}
