/** What an L2 table says of a stretch of the guest's disk (qcow2 specification, "Cluster mapping"). */
import { extentBytes, extentOffset } from '../format/compressed.js';
import { HI_COMPRESSED, HI_COPIED, LO_ZERO, entryOffset } from '../format/entries.js';
import { clusterOf as hostClusterOf, lastClusterOf } from '../image/extents.js';
import type { Geometry } from './geometry.js';
import type { Table } from './table.js';

export const Content = {
  /** The backing file's, or zeroes. */
  unallocated: 0,
  zero: 1,
  data: 2,
  compressed: 3,
} as const;
export type Content = (typeof Content)[keyof typeof Content];

/** A stretch of one content; data lie in one piece of the file. */
export interface Run {
  content: Content;
  lengthBytes: number;
  /** Of data: host offset of the first byte. Of a compressed cluster, which is a run of its own: of its extent. */
  host: number;
  /** Nothing else refers to the data: they may be overwritten where they are. */
  isOwn: boolean;
  /** Of a compressed cluster: bytes of the extent, to the end of its last sector. */
  extentBytes: number;
}

/** The run at `guest`, of at most `maxBytes` and within one table. Without a table nothing is allocated. */
export function runAt(geometry: Geometry, table: Table | null, guest: number, maxBytes: number): Run {
  const inTable = guest % geometry.tableBytes;
  const most = Math.min(maxBytes, geometry.tableBytes - inTable);
  if (table === null) return runOf(Content.unallocated, most, 0, false);
  const index = Math.floor(inTable / geometry.clusterBytes);
  const inCluster = inTable % geometry.clusterBytes;
  const run = geometry.isExtended
    ? unitsOf(geometry, table, index, inCluster, most)
    : clusterOf(geometry, table, index, inCluster, most);
  if (run.content === Content.compressed) return run;
  for (let next = index + 1; run.lengthBytes < most; next++) {
    // Only what ended with its cluster can go on in the next one.
    if ((inTable + run.lengthBytes) % geometry.clusterBytes !== 0) break;
    const left = most - run.lengthBytes;
    const more = geometry.isExtended
      ? unitsOf(geometry, table, next, 0, left)
      : clusterOf(geometry, table, next, 0, left);
    if (more.content !== run.content || more.isOwn !== run.isOwn) break;
    if (run.content === Content.data && more.host !== run.host + run.lengthBytes) break;
    run.lengthBytes += more.lengthBytes;
  }
  return run;
}

function runOf(content: Content, lengthBytes: number, host: number, isOwn: boolean, extent = 0): Run {
  return { content, lengthBytes, host, isOwn, extentBytes: extent };
}

/** Of one cluster with an ordinary entry, from `inCluster` on. */
function clusterOf(geometry: Geometry, table: Table, index: number, inCluster: number, most: number): Run {
  const hi = table.hi(index);
  const lo = table.lo(index);
  const length = Math.min(most, geometry.clusterBytes - inCluster);
  if ((hi & HI_COMPRESSED) !== 0) return compressedRun(geometry, hi, lo, length);
  if ((lo & LO_ZERO) !== 0) return runOf(Content.zero, length, 0, false);
  const offset = entryOffset(hi, lo);
  if (offset === 0) return runOf(Content.unallocated, length, 0, false);
  return runOf(Content.data, length, offset + inCluster, (hi & HI_COPIED) !== 0);
}

function compressedRun({ clusterBits }: Geometry, hi: number, lo: number, length: number): Run {
  const offset = extentOffset(hi, lo, clusterBits);
  return runOf(Content.compressed, length, offset, false, extentBytes(hi, lo, clusterBits));
}

/** Of one cluster with an extended entry: its parts of one state from `inCluster` on. */
function unitsOf(geometry: Geometry, table: Table, index: number, inCluster: number, most: number): Run {
  const hi = table.hi(index);
  const lo = table.lo(index);
  const length = Math.min(most, geometry.clusterBytes - inCluster);
  if ((hi & HI_COMPRESSED) !== 0) return compressedRun(geometry, hi, lo, length);
  const zero = table.zeroBits(index);
  const allocated = table.allocatedBits(index);
  const first = Math.floor(inCluster / geometry.unitBytes);
  const content = unitContent(zero, allocated, first);
  let end = (first + 1) * geometry.unitBytes;
  for (let unit = first + 1; end - inCluster < length; unit++) {
    if (unitContent(zero, allocated, unit) !== content) break;
    end += geometry.unitBytes;
  }
  const bytes = Math.min(length, end - inCluster);
  if (content !== Content.data) return runOf(content, bytes, 0, false);
  return runOf(content, bytes, entryOffset(hi, lo) + inCluster, (hi & HI_COPIED) !== 0);
}

function unitContent(zero: number, allocated: number, unit: number): Content {
  if (((allocated >>> unit) & 1) !== 0) return Content.data;
  return ((zero >>> unit) & 1) !== 0 ? Content.zero : Content.unallocated;
}

/** The host cluster that an entry owns or shares, whatever is read of it; -1 where it has none. */
export function clusterOfEntry(geometry: Geometry, table: Table, index: number): number {
  const hi = table.hi(index);
  if ((hi & HI_COMPRESSED) !== 0) return -1;
  const offset = entryOffset(hi, table.lo(index));
  return offset === 0 ? -1 : offset / geometry.clusterBytes;
}

/** Whether the entry has a host cluster that nothing else refers to. */
export function ownsCluster(geometry: Geometry, table: Table, index: number): boolean {
  return clusterOfEntry(geometry, table, index) >= 0 && (table.hi(index) & HI_COPIED) !== 0;
}

/** Neighbouring host clusters. */
export interface HostRange {
  first: number;
  count: number;
}

/** The host clusters that an entry refers to, whatever is read of them; none where `count` is 0. */
export function hostRangeOf(
  { clusterBits, clusterBytes }: Pick<Geometry, 'clusterBits' | 'clusterBytes'>,
  hi: number,
  lo: number,
): HostRange {
  if ((hi & HI_COMPRESSED) === 0) {
    const offset = entryOffset(hi, lo);
    return { first: offset / clusterBytes, count: offset === 0 ? 0 : 1 };
  }
  const offset = extentOffset(hi, lo, clusterBits);
  const first = hostClusterOf(offset, clusterBytes);
  const last = lastClusterOf(offset, extentBytes(hi, lo, clusterBits), clusterBytes);
  return { first, count: last - first + 1 };
}
