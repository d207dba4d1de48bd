/**
 * The logical side of a test image: which tables lead to which clusters, with no idea yet where in
 * the file anything is. Refcounts follow from it: one for each path from an L1 table.
 */

import type { Bitmap } from './image-bitmaps.js';

/** One host cluster of guest data, or of the bits of a bitmap. */
export class DataUnit {
  /** As a crash leaves it when it strikes between the pointer updates of a move: too high. */
  refcountAtLeast = 0;

  constructor(public content: Uint8Array) {}
}

/** One compressed cluster: less than a cluster of bytes, which share host clusters with others. */
export class ExtentUnit {
  refcountAtLeast = 0;

  constructor(readonly content: Uint8Array) {}
}

export interface L2Entry {
  /** Reads as zeroes, whatever the cluster holds. */
  readonly zero: boolean;
  readonly data: DataUnit | null;
  /** Instead of data. */
  readonly extent?: ExtentUnit;
  /** Of an extended entry whose bitmaps are not what `zero` and `data` say: one bit a subcluster. */
  readonly subclusters?: { readonly zero: number; readonly allocated: number };
}

export class L2Unit {
  refcountAtLeast = 0;
  readonly entries: Map<number, L2Entry>;

  constructor(entries?: ReadonlyMap<number, L2Entry>) {
    this.entries = new Map(entries);
  }
}

export class L1Table {
  readonly tables: Map<number, L2Unit>;

  constructor(
    public size: number,
    tables?: ReadonlyMap<number, L2Unit>,
  ) {
    this.tables = new Map(tables);
  }

  clone(): L1Table {
    return new L1Table(this.size, this.tables);
  }
}

export interface Snapshot {
  readonly id: string;
  readonly name: Uint8Array;
  readonly l1: L1Table;
  /** Bytes of machine state, in guest clusters after the disk's last L1 entry. */
  readonly vmStateSize: number;
  readonly extra: Uint8Array;
}

export interface ImageFormat {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly refcountOrder: number;
  readonly virtualSize: number;
  /** Extended L2 entries have 16 bytes. */
  readonly l2EntrySize: 8 | 16;
  /** Clusters of data are in another file, each where the guest has it. */
  readonly dataFile: boolean;
}

export class ImageModel {
  active: L1Table;
  readonly snapshots: Snapshot[] = [];
  /** Tables that no snapshot names any more, but whose references are still counted: leaks. */
  readonly ghosts: L1Table[] = [];
  readonly bitmaps: Bitmap[] = [];

  constructor(
    readonly format: ImageFormat,
    l1Size: number,
  ) {
    this.active = new L1Table(l1Size);
  }

  get entriesPerL2(): number {
    return this.format.clusterSize / this.format.l2EntrySize;
  }

  get maxRefcount(): number {
    return 2 ** (2 ** this.format.refcountOrder) - 1;
  }

  layers(): L1Table[] {
    return [this.active, ...this.snapshots.map(({ l1 }) => l1), ...this.ghosts];
  }

  entry(l1: L1Table, guestCluster: number): L2Entry | undefined {
    const table = l1.tables.get(Math.floor(guestCluster / this.entriesPerL2));
    return table?.entries.get(guestCluster % this.entriesPerL2);
  }

  /** Sets or removes an entry; a table that other L1 entries share is copied first, as QEMU does. */
  setEntry(l1: L1Table, guestCluster: number, entry: L2Entry | null): void {
    const l1Index = Math.floor(guestCluster / this.entriesPerL2);
    const found = l1.tables.get(l1Index);
    if (found === undefined && entry === null) {
      return;
    }
    const table = found === undefined || this.pointersTo(found) > 1 ? new L2Unit(found?.entries) : found;
    l1.tables.set(l1Index, table);
    l1.size = Math.max(l1.size, l1Index + 1);
    if (entry === null) {
      table.entries.delete(guestCluster % this.entriesPerL2);
    } else {
      table.entries.set(guestCluster % this.entriesPerL2, entry);
    }
  }

  /** Each L2 table in some layer, once, with the name of its first place. */
  distinctL2(): Map<L2Unit, string> {
    const result = new Map<L2Unit, string>();
    for (const [l1, name] of this.namedLayers()) {
      for (const [index, table] of l1.tables) {
        if (!result.has(table)) {
          result.set(table, `${name}:${index}`);
        }
      }
    }
    return result;
  }

  distinctData(): Map<DataUnit, string> {
    return this.distinct(({ data }) => data);
  }

  distinctExtents(): Map<ExtentUnit, string> {
    return this.distinct(({ extent }) => extent ?? null);
  }

  /** What the refcounts on disk say: references, ghosts' ones included, or more. */
  refcounts(): Map<L2Unit | DataUnit | ExtentUnit, number> {
    const paths = new Map<L2Unit | DataUnit | ExtentUnit, number>();
    const add = (unit: L2Unit | DataUnit | ExtentUnit) => paths.set(unit, (paths.get(unit) ?? 0) + 1);
    for (const l1 of this.layers()) {
      for (const table of l1.tables.values()) {
        add(table);
        for (const { data, extent } of table.entries.values()) {
          const target = extent ?? data;
          if (target !== null) {
            add(target);
          }
        }
      }
    }
    for (const [unit, count] of paths) {
      paths.set(unit, Math.max(count, unit.refcountAtLeast));
    }
    return paths;
  }

  /** Each target in some layer, once, with the name of its first place. */
  private distinct<Target>(targetOf: (entry: L2Entry) => Target | null): Map<Target, string> {
    const result = new Map<Target, string>();
    for (const [l1, name] of this.namedLayers()) {
      for (const [l1Index, table] of l1.tables) {
        for (const [index, entry] of table.entries) {
          const target = targetOf(entry);
          if (target !== null && !result.has(target)) {
            result.set(target, `${name}:${l1Index * this.entriesPerL2 + index}`);
          }
        }
      }
    }
    return result;
  }

  private pointersTo(unit: L2Unit): number {
    let count = 0;
    for (const l1 of this.layers()) {
      for (const table of l1.tables.values()) {
        count += table === unit ? 1 : 0;
      }
    }
    return count;
  }

  private *namedLayers(): Generator<[L1Table, string]> {
    yield [this.active, 'active'];
    for (const { l1, id } of this.snapshots) {
      yield [l1, id];
    }
    for (const [index, l1] of this.ghosts.entries()) {
      yield [l1, `ghost${index}`];
    }
  }
}
