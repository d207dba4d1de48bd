/**
 * Packs compressed clusters into streams, byte by byte as QEMU does: an extent starts where the one
 * before it ended, in the same sector, and may reach over into the next host cluster.
 */
import type { ExtentUnit, ImageFormat } from './image-model.js';
import type { Random } from './random.js';

export interface CompressedOptions {
  /** How often (0 to 1) an extent begins a new stream; by default all are in one. */
  readonly newStreams?: number;
  /** How often an extent starts at a fresh sector, or at a fresh host cluster. */
  readonly freshSectors?: number;
  readonly freshClusters?: number;
  /** How often extents that nothing refers to any more lie before one that is in use. */
  readonly deadBytes?: number;
}

/** Adjacent host clusters full of extents. */
export class Stream {
  /** Where each extent in use starts, in bytes from the start of the stream. */
  readonly starts = new Map<ExtentUnit, number>();
  /** Of each host cluster: the paths to all extents that touch it. */
  readonly refcounts: number[] = [];
  /** Where the last extent in use ends. */
  liveEnd = 0;
  private end = 0;
  private readonly dead: [start: number, bytes: Uint8Array][] = [];

  constructor(
    private readonly clusterSize: number,
    private readonly maxRefcount: number,
  ) {}

  get isDead(): boolean {
    return this.starts.size === 0;
  }

  /** At the first place from `alignment` on where no refcount becomes more than its width can hold. */
  append(extent: ExtentUnit, paths: number, alignment: number): void {
    if (paths > this.maxRefcount) {
      throw new Error(`a compressed cluster has ${paths} references, more than its refcount can hold`);
    }
    const { clusterSize } = this;
    let start = roundUp(this.end, alignment);
    // Only the cluster in which it starts can have other extents already.
    if ((this.refcounts[Math.floor(start / clusterSize)] ?? 0) + paths > this.maxRefcount) {
      start = roundUp(start, clusterSize);
    }
    this.starts.set(extent, start);
    this.end = start + extent.content.length;
    this.liveEnd = this.end;
    this.grow();
    for (let cluster = Math.floor(start / clusterSize); cluster * clusterSize < this.end; cluster++) {
      this.refcounts[cluster] = (this.refcounts[cluster] ?? 0) + paths;
    }
  }

  appendDead(bytes: Uint8Array, alignment: number): void {
    const start = roundUp(this.end, alignment);
    this.dead.push([start, bytes]);
    this.end = start + bytes.length;
    this.grow();
  }

  writeInto(target: Uint8Array): void {
    for (const [start, bytes] of this.dead) {
      target.set(bytes, start);
    }
    for (const [{ content }, start] of this.starts) {
      target.set(content, start);
    }
  }

  private grow(): void {
    while (this.refcounts.length * this.clusterSize < this.end) {
      this.refcounts.push(0);
    }
  }
}

/** `extents` with the number of paths to each, in the order to be packed in. The last stream ends with one in use. */
export function packExtents(
  extents: Iterable<readonly [ExtentUnit, number]>,
  { clusterSize, refcountOrder }: ImageFormat,
  options: CompressedOptions,
  random: Random,
): Stream[] {
  const maxRefcount = 2 ** (2 ** refcountOrder) - 1;
  const streams: Stream[] = [];
  const stream = (): Stream => {
    let current = streams.at(-1);
    if (current === undefined || random.chance(options.newStreams ?? 0)) {
      current = new Stream(clusterSize, maxRefcount);
      streams.push(current);
    }
    return current;
  };
  const alignment = (): number => {
    if (random.chance(options.freshClusters ?? 0)) {
      return clusterSize;
    }
    return random.chance(options.freshSectors ?? 0) ? 512 : 1;
  };
  for (const [extent, paths] of extents) {
    // Several in a row leave whole host clusters dead.
    const dead = random.chance(options.deadBytes ?? 0) ? random.between(1, 4) : 0;
    for (let index = 0; index < dead; index++) {
      stream().appendDead(random.bytes(random.between(1, clusterSize - 1)), alignment());
    }
    stream().append(extent, paths, alignment());
  }
  return streams;
}

/** The L2 entry of an extent: bit 62, the sectors after the first one that it touches, its first byte. */
export function compressedDescriptor(offset: number, length: number, clusterBits: number): bigint {
  const sectors = Math.floor((offset + length - 1) / 512) - Math.floor(offset / 512);
  return (1n << 62n) | (BigInt(sectors) << BigInt(62 - (clusterBits - 8))) | BigInt(offset);
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
