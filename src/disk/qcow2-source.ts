/** Reading through the tables of an image: what the disk does, and each image that it is based on. */
import type { BlockDevice } from '../device/block-device.js';
import type { Header } from '../format/header.js';
import { clusterOf, lastClusterOf } from '../image/extents.js';
import { Access, type RangeLocks } from '../recycler/locks.js';
import { decompress } from './decompress.js';
import type { Geometry } from './geometry.js';
import { type GuestSource, type Status, readWithin } from './guest-source.js';
import { Content, type Run, clusterOfEntry, runAt } from './mapping.js';
import { lockBehind } from './passage.js';
import type { Table } from './table.js';
import type { Tables } from './tables.js';

/** Stretches of one request that are read at a time. */
const IN_FLIGHT = 16;

export class Qcow2Source implements GuestSource {
  readonly backing: GuestSource | null;
  readonly geometry: Geometry;
  readonly #device: BlockDevice;
  readonly #header: Header;
  readonly #tables: Tables;
  readonly #locks: RangeLocks;
  /**
   * The last compressed cluster that was read, by its place on the guest's disk: the next request may go on in it. Once
   * it is written to it is not compressed any more, and never again.
   */
  #unpacked: { guestCluster: number; bytes: Uint8Array } | null = null;

  constructor(
    device: BlockDevice,
    header: Header,
    tables: Tables,
    locks: RangeLocks,
    backing: GuestSource | null,
  ) {
    this.#device = device;
    this.#header = header;
    this.#tables = tables;
    this.#locks = locks;
    this.backing = backing;
    this.geometry = tables.geometry;
  }

  get sizeBytes(): number {
    return this.geometry.sizeBytes;
  }

  get cachedTables(): number {
    return this.#tables.cachedTables;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    let parts: Promise<void>[] = [];
    try {
      for (let at = 0; at < target.length;) {
        const run = await this.#tables.runAt(offset + at, target.length - at);
        if (at === 0 && run.lengthBytes === target.length) return await this.#readPart(target, offset);
        const part = this.#readPart(target.subarray(at, at + run.lengthBytes), offset + at);
        // Its failure is heard of below, perhaps only after another wait.
        part.catch(() => undefined);
        parts.push(part);
        at += run.lengthBytes;
        if (parts.length < IN_FLIGHT) continue;
        await Promise.all(parts);
        parts = [];
      }
      await Promise.all(parts);
    } finally {
      // Nothing is put into the target any more once this has settled.
      await Promise.allSettled(parts);
    }
  }

  /** Looks again at every step: what the tables say may have changed since the caller's look. */
  async #readPart(target: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < target.length;) {
      const guest = offset + at;
      const l1Index = this.#tables.l1Index(guest);
      const table = this.#tables.peek(l1Index);
      if (table === undefined) {
        await this.#tables.load(l1Index);
        continue;
      }
      const run = runAt(this.geometry, table, guest, target.length - at);
      const bytes = target.subarray(at, at + run.lengthBytes);
      if (run.content === Content.zero) bytes.fill(0);
      else if (run.content === Content.unallocated) await readWithin(this.backing, bytes, guest);
      else if (!(await this.#readStored(table!, run, bytes, guest))) continue;
      at += run.lengthBytes;
    }
  }

  /** False where the run is not there any more by the time that its locks are. */
  async #readStored(table: Table, run: Run, bytes: Uint8Array, guest: number): Promise<boolean> {
    const isCompressed = run.content === Content.compressed;
    const guestCluster = Math.floor(guest / this.geometry.clusterBytes);
    if (isCompressed && this.#unpacked?.guestCluster === guestCluster) {
      this.#copyUnpacked(this.#unpacked.bytes, bytes, guest);
      return true;
    }
    const { clusterBytes } = this.geometry;
    const first = clusterOf(run.host, clusterBytes);
    const last = lastClusterOf(run.host, isCompressed ? run.extentBytes : run.lengthBytes, clusterBytes);
    const lock = lockBehind(this.#locks, table.cluster, first, last - first + 1, Access.passing);
    const passed = table.cluster;
    const isStill = () =>
      this.#tables.isAt(guest, passed) && isSame(run, this.#tables.peekRun(guest, run.lengthBytes));
    const release = typeof lock === 'function' ? lock : await lock;
    try {
      if (release !== lock && !isStill()) return false;
      if (!isCompressed) await this.#device.read(bytes, run.host);
      else {
        const extent = new Uint8Array(run.extentBytes);
        await this.#device.read(extent, run.host);
        const unpacked = await decompress(extent, clusterBytes, this.#header.compressionType, run.host);
        this.#copyUnpacked(unpacked, bytes, guest);
        this.#unpacked = { guestCluster, bytes: unpacked };
      }
      return true;
    } finally {
      release();
    }
  }

  #copyUnpacked(unpacked: Uint8Array, bytes: Uint8Array, guest: number): void {
    const from = guest % this.geometry.clusterBytes;
    bytes.set(unpacked.subarray(from, from + bytes.length));
  }

  async status(offset: number, lengthBytes: number): Promise<Status> {
    const l1Index = this.#tables.l1Index(offset);
    const table = await this.#tables.load(l1Index);
    // One look is enough: what changes meanwhile may be said either way.
    const run = runAt(this.geometry, table, offset, lengthBytes);
    if (table === null)
      run.lengthBytes = Math.max(run.lengthBytes, this.#tables.lengthWithoutTable(offset, lengthBytes));
    if (run.content !== Content.unallocated) {
      const isZero = run.content === Content.zero;
      return isZero
        ? this.#zeroStatus(table!, offset, run.lengthBytes)
        : { lengthBytes: run.lengthBytes, isAllocated: true, isZero: false };
    }
    const { backing } = this;
    const inside = backing === null ? 0 : Math.min(run.lengthBytes, backing.sizeBytes - offset);
    if (inside > 0) return backing!.status(offset, inside);
    return { lengthBytes: run.lengthBytes, isAllocated: false, isZero: true };
  }

  /** Preallocated clusters read as zeroes, and have their room. */
  #zeroStatus(table: Table, offset: number, lengthBytes: number): Status {
    const { clusterBytes, tableBytes } = this.geometry;
    const isAllocated = (at: number) =>
      clusterOfEntry(this.geometry, table, Math.floor((at % tableBytes) / clusterBytes)) >= 0;
    const allocated = isAllocated(offset);
    let end = offset;
    while (end < offset + lengthBytes && isAllocated(end) === allocated)
      end += clusterBytes - (end % clusterBytes);
    return { lengthBytes: Math.min(end - offset, lengthBytes), isAllocated: allocated, isZero: true };
  }

  async close(): Promise<void> {
    try {
      await this.#device.close();
    } finally {
      await this.backing?.close();
    }
  }
}

/** Whether the data are where they were; there may be less of them. */
export function isSame(run: Run, now: Run | null): boolean {
  return (
    now !== null &&
    now.content === run.content &&
    now.host === run.host &&
    now.isOwn === run.isOwn &&
    now.lengthBytes >= run.lengthBytes
  );
}
