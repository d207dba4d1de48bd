/**
 * Compressed extents in host order, each once, with the descriptors that name it (design 6). Collected only
 * for an image that has some: 24 bytes for each and 20 for each descriptor.
 */
import { SECTOR } from '../device/block-device.js';
import type { HostClusters } from './host-clusters.js';
import type { Image } from './image.js';
import { visitReferences } from './references.js';

export class Extents {
  /** Host offset of the first byte; ascending. */
  readonly offsets: Float64Array;
  /** Bytes up to the end of the last sector. */
  readonly lengths: Float64Array;
  /** How many paths lead to it, over all its descriptors. */
  readonly paths: Uint32Array;
  /** Slots of extent i: from `slotsFrom[i]` to `slotsFrom[i + 1]` in `slots`. */
  readonly slotsFrom: Uint32Array;
  /** Host offsets of descriptors. */
  readonly slots: Float64Array;

  /** `found`: one element of each array for every descriptor, in any order. */
  constructor(found: {
    offsets: Float64Array;
    lengths: Float64Array;
    slots: Float64Array;
    paths: Uint32Array;
  }) {
    const order = new Uint32Array(found.slots.length).map((_, i) => i);
    order.sort((a, b) => found.offsets[a]! - found.offsets[b]! || found.lengths[a]! - found.lengths[b]!);
    const firsts: number[] = [];
    const isSame = (a: number, b: number) =>
      found.offsets[a] === found.offsets[b] && found.lengths[a] === found.lengths[b];
    for (let i = 0; i < order.length; i++) {
      if (i === 0 || !isSame(order[i - 1]!, order[i]!)) firsts.push(i);
    }
    this.slots = Float64Array.from(order, (i) => found.slots[i]!);
    this.slotsFrom = Uint32Array.from([...firsts, order.length]);
    this.offsets = Float64Array.from(firsts, (i) => found.offsets[order[i]!]!);
    this.lengths = Float64Array.from(firsts, (i) => found.lengths[order[i]!]!);
    this.paths = new Uint32Array(firsts.length);
    for (let extent = 0; extent < firsts.length; extent++) {
      for (let i = this.slotsFrom[extent]!; i < this.slotsFrom[extent + 1]!; i++) {
        this.paths[extent]! += found.paths[order[i]!]!;
      }
    }
  }

  get count(): number {
    return this.offsets.length;
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

/** One pass over the tables; null where nothing is compressed. */
export async function collectExtents(image: Image, clusters: HostClusters): Promise<Extents | null> {
  let capacity = 1024;
  let found = arrays(capacity);
  let length = 0;
  await visitReferences(image, clusters, {
    reference: () => undefined,
    extent(slot, offset, lengthBytes, paths) {
      if (length === capacity) {
        capacity *= 2;
        const larger = arrays(capacity);
        larger.offsets.set(found.offsets);
        larger.lengths.set(found.lengths);
        larger.slots.set(found.slots);
        larger.paths.set(found.paths);
        found = larger;
      }
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

function arrays(length: number) {
  return {
    offsets: new Float64Array(length),
    lengths: new Float64Array(length),
    slots: new Float64Array(length),
    paths: new Uint32Array(length),
  };
}
