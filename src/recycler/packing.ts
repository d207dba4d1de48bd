/**
 * Where compressed extents go so that they fill the fewest clusters (design 6). Pure: reads extents, writes
 * nothing. An extent keeps its place within a sector, and what overlaps it keeps overlapping it.
 */
import { SECTOR } from '../device/block-device.js';
import type { Extents } from '../image/extents.js';

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
): Packing | null {
  const offsets = new Float64Array(extents.count);
  /** Paths to the clusters filled last. */
  const counts = new Map<number, number>();
  const clusterOf = (offset: number) => Math.floor(offset / clusterBytes);
  const fits = (offset: number, lengthBytes: number, paths: number) => {
    for (let cluster = clusterOf(offset); cluster <= clusterOf(offset + lengthBytes - 1); cluster++) {
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
    const { lengths, paths } = extents;
    const offset = extents.offsets[i]!;
    const lengthBytes = lengths[i]!;
    let place = offset + shift;
    if (offset >= chainEnd || !fits(place, lengthBytes, paths[i]!)) {
      const within = offset % SECTOR;
      place = free + within;
      // The sector that it would begin in may belong to a cluster that holds enough already.
      while (!fits(place, lengthBytes, paths[i]!)) {
        place = (clusterOf(place) + 1) * clusterBytes + within;
        if (clusterOf(place) >= endCluster) return null;
      }
      shift = place - offset;
      chainEnd = offset + lengthBytes;
    }
    offsets[i] = place;
    chainEnd = Math.max(chainEnd, offset + lengthBytes);
    free = Math.max(free, place + lengthBytes);
    const first = clusterOf(place);
    for (const cluster of counts.keys()) if (cluster < first - 2) counts.delete(cluster);
    for (let cluster = first; cluster <= clusterOf(place + lengthBytes - 1); cluster++) {
      if (!counts.has(cluster)) clusters++;
      counts.set(cluster, (counts.get(cluster) ?? 0) + paths[i]!);
    }
  }
  return { offsets, clusters, endCluster: Math.ceil(free / clusterBytes) };
}
