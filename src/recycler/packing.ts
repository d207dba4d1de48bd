/**
 * Compressed extents one behind the other, so that they fill the fewest clusters (design 6). Pure: reads extents,
 * writes nothing. An extent keeps its place within a sector, and what overlaps it keeps overlapping it.
 */
import { SECTOR } from '../device/block-device.js';
import { type Extents, clusterOf, lastClusterOf } from '../image/extents.js';

export interface PackingLimits {
  clusterBytes: number;
  /** Greatest number of paths to one cluster: what a refcount can hold. */
  greatestCount: number;
  /** Whether extents may be put into this cluster. */
  usable: (cluster: number) => boolean;
  /** No extent may reach into this cluster or beyond. */
  endCluster: number;
}

export interface Packing {
  /** Host offset of each extent, in the order of the extents. */
  offsets: Float64Array;
  /** Clusters that hold something. */
  clusters: number;
  /** The cluster after the last one. */
  endCluster: number;
}

/**
 * Packs `extents` (indices, ascending) from the start of cluster `from` on, one behind the other. Nothing is
 * sorted or filled up afterwards, so that what is packed already stays where it is. Null where they do not fit.
 */
export function packExtents(
  extents: Extents,
  indices: Iterable<number>,
  from: number,
  { clusterBytes, greatestCount, usable, endCluster }: PackingLimits,
  offsets = new Float64Array(extents.count),
): Packing | null {
  /** Paths to the clusters filled last. */
  const counts = new Map<number, number>();
  const fits = (offset: number, lengthBytes: number, paths: number) => {
    const last = lastClusterOf(offset, lengthBytes, clusterBytes);
    for (let cluster = clusterOf(offset, clusterBytes); cluster <= last; cluster++) {
      if (!usable(cluster) || (counts.get(cluster) ?? 0) + paths > greatestCount) return false;
    }
    return true;
  };
  /** Of the extents that overlap the last one, directly or through others: where they end, then and now. */
  let chainEnd = -1;
  let shift = 0;
  let free = from * clusterBytes;
  let clusters = 0;
  for (const i of indices) {
    const offset = extents.offsets[i]!;
    const lengthBytes = extents.lengths[i]!;
    const paths = extents.paths[i]!;
    let place = offset + shift;
    if (offset >= chainEnd || !fits(place, lengthBytes, paths)) {
      const within = offset % SECTOR;
      place = free + within;
      // The sector that it would begin in may belong to a cluster that holds enough already.
      while (!fits(place, lengthBytes, paths)) {
        place = (clusterOf(place, clusterBytes) + 1) * clusterBytes + within;
        if (clusterOf(place, clusterBytes) >= endCluster) return null;
      }
      shift = place - offset;
      chainEnd = offset + lengthBytes;
    }
    offsets[i] = place;
    chainEnd = Math.max(chainEnd, offset + lengthBytes);
    free = Math.max(free, place + lengthBytes);
    const first = clusterOf(place, clusterBytes);
    const last = lastClusterOf(place, lengthBytes, clusterBytes);
    for (const cluster of counts.keys()) if (cluster < first - 2) counts.delete(cluster);
    for (let cluster = first; cluster <= last; cluster++) {
      if (!counts.has(cluster)) clusters++;
      counts.set(cluster, (counts.get(cluster) ?? 0) + paths);
    }
  }
  return { offsets, clusters, endCluster: Math.ceil(free / clusterBytes) };
}

/**
 * All extents from cluster `from` on by whole clusters: what is in one cluster stays in one, as it is. For narrow
 * refcounts, where the order of the file can be a better packing than one behind the other.
 */
export function packByClusters(extents: Extents, from: number, clusterBytes: number): Packing {
  const offsets = new Float64Array(extents.count);
  let groupEnd = -1;
  let shift = 0;
  let end = from;
  for (let i = 0; i < extents.count; i++) {
    const offset = extents.offsets[i]!;
    const first = clusterOf(offset, clusterBytes);
    const last = lastClusterOf(offset, extents.lengths[i]!, clusterBytes);
    if (first > groupEnd) shift = end - first;
    groupEnd = Math.max(groupEnd, last);
    end = groupEnd + 1 + shift;
    offsets[i] = offset + shift * clusterBytes;
  }
  return { offsets, clusters: end - from, endCluster: end };
}
