/**
 * Compressed extents in host order, each once, with the descriptors that name it (design 6). Collected only
 * for an image that has some: 20 bytes for each and 8 for each descriptor.
 */
import { SECTOR } from '../device/block-device.js';
import type { HostClusters } from './host-clusters.js';
import type { Image } from './image.js';
import { visitReferences } from './references.js';

/** The host cluster that holds the byte at `offset`: the first one that an extent there touches. */
export function clusterOf(offset: number, clusterBytes: number): number {
  return Math.floor(offset / clusterBytes);
}

/** The last host cluster that an extent at `offset` touches (hazard 6.2). */
export function lastClusterOf(offset: number, lengthBytes: number, clusterBytes: number): number {
  return Math.floor((offset + lengthBytes - 1) / clusterBytes);
}

export class Extents {
  /** Host offset of the first byte; ascending. */
  readonly offsets: Float64Array;
  /** Bytes up to the end of the last sector: some megabytes at most, since the format has few bits for them. */
  readonly lengths: Uint32Array;
  /** How many paths lead to it, over all its descriptors. */
  readonly paths: Uint32Array;
  /** Slots of extent i: from `slotsFrom[i]` to `slotsFrom[i + 1]` in `slots`. */
  readonly slotsFrom: Uint32Array;
  /** Host offsets of descriptors. */
  readonly slots: Float64Array;
  /** Bytes of the longest. */
  readonly longest: number;

  /** `found`: one element of each array for every descriptor, in any order. */
  constructor(found: Descriptors) {
    const order = new Uint32Array(found.slots.length).map((_, i) => i);
    const isSame = (a: number, b: number) =>
      found.offsets[a] === found.offsets[b] && found.lengths[a] === found.lengths[b];
    const compare = (a: number, b: number) =>
      found.offsets[a]! - found.offsets[b]! || found.lengths[a]! - found.lengths[b]!;
    // As QEMU writes them: a sort takes as much memory again.
    const isSorted = order.every((_, i) => i === 0 || compare(i - 1, i) <= 0);
    if (!isSorted) order.sort(compare);
    let count = 0;
    for (let i = 0; i < order.length; i++) if (i === 0 || !isSame(order[i - 1]!, order[i]!)) count++;
    this.slots = new Float64Array(order.length);
    this.slotsFrom = new Uint32Array(count + 1);
    this.offsets = new Float64Array(count);
    this.lengths = new Uint32Array(count);
    this.paths = new Uint32Array(count);
    let longest = 0;
    for (let i = 0, extent = -1; i < order.length; i++) {
      const at = order[i]!;
      if (i === 0 || !isSame(order[i - 1]!, at)) {
        extent++;
        this.slotsFrom[extent] = i;
        this.offsets[extent] = found.offsets[at]!;
        this.lengths[extent] = found.lengths[at]!;
        longest = Math.max(longest, found.lengths[at]!);
      }
      this.slots[i] = found.slots[at]!;
      this.paths[extent]! += found.paths[at]!;
    }
    this.slotsFrom[count] = order.length;
    this.longest = longest;
  }

  get count(): number {
    return this.offsets.length;
  }

  /** Sectors that extents touch, each once. */
  get sectors(): number {
    let bytes = 0;
    let reach = 0;
    for (let extent = 0; extent < this.count; extent++) {
      bytes += Math.max(0, this.end(extent) - Math.max(reach, this.sectorStart(extent)));
      reach = Math.max(reach, this.end(extent));
    }
    return bytes / SECTOR;
  }

  /** Start of the first sector that the extent touches. */
  sectorStart(extent: number): number {
    return this.offsets[extent]! - (this.offsets[extent]! % SECTOR);
  }

  /** End of its last sector. */
  end(extent: number): number {
    return this.offsets[extent]! + this.lengths[extent]!;
  }
}

/** Descriptors in the order in which they were found. */
export interface Descriptors {
  offsets: Float64Array;
  lengths: Uint32Array;
  slots: Float64Array;
  paths: Uint32Array;
}

/** One pass over the tables; null where nothing is compressed. */
export async function collectExtents(image: Image, clusters: HostClusters): Promise<Extents | null> {
  let found = arrays(1024);
  let length = 0;
  await visitReferences(image, clusters, {
    reference: () => undefined,
    extent(slot, offset, lengthBytes, paths) {
      // By half: what is too much of it lies beside what becomes of it.
      if (length === found.slots.length) found = resized(found, Math.ceil(length * 1.5));
      found.offsets[length] = offset;
      found.lengths[length] = lengthBytes;
      found.slots[length] = slot;
      found.paths[length] = paths;
      length++;
    },
  });
  if (length === 0) return null;
  return new Extents({
    offsets: found.offsets.subarray(0, length),
    lengths: found.lengths.subarray(0, length),
    slots: found.slots.subarray(0, length),
    paths: found.paths.subarray(0, length),
  });
}

function resized(found: Descriptors, length: number): Descriptors {
  const larger = arrays(length);
  larger.offsets.set(found.offsets);
  larger.lengths.set(found.lengths);
  larger.slots.set(found.slots);
  larger.paths.set(found.paths);
  return larger;
}

function arrays(length: number): Descriptors {
  return {
    offsets: new Float64Array(length),
    lengths: new Uint32Array(length),
    slots: new Float64Array(length),
    paths: new Uint32Array(length),
  };
}
