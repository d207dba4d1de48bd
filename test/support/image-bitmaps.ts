/** Persistent bitmaps of a test image, and the bytes of their directory, their tables and their header extension. */
import { writeOffset } from './image-header.js';
import { DataUnit, type ImageFormat } from './image-model.js';
import type { Random } from './random.js';

export interface BitmapOptions {
  /** By default 16: a bit stands for 64 KiB. */
  readonly granularityBits?: number;
  /** Recorded when the image is opened; by default. */
  readonly auto?: boolean;
  /** As a crash of QEMU leaves it. */
  readonly inUse?: boolean;
  /** Of one in use, which may be of another size than the disk. */
  readonly tableEntries?: number;
  /** What the entries of its table are, over and over: bits of their own, all 0, all 1. By default the first. */
  readonly entries?: readonly ('bits' | 'zeroes' | 'ones')[];
}

const IN_USE = 1;
const AUTO = 2;

export class Bitmap {
  /** A cluster of bits, or what all bits of the cluster would be. */
  readonly entries: (DataUnit | 'zeroes' | 'ones')[] = [];
  readonly flags: number;
  readonly granularityBits: number;

  constructor(
    readonly name: string,
    format: ImageFormat,
    random: Random,
    { granularityBits = 16, auto = true, inUse = false, tableEntries, entries = ['bits'] }: BitmapOptions,
  ) {
    this.granularityBits = granularityBits;
    this.flags = (inUse ? IN_USE : 0) + (auto ? AUTO : 0);
    const bits = Math.ceil(format.virtualSize / 2 ** granularityBits);
    const needed = Math.ceil(bits / 8 / format.clusterSize);
    if (needed === 0 || (tableEntries !== undefined && !inUse)) {
      throw new Error('only a bitmap in use has another size than the disk, and none is empty');
    }
    for (let index = 0; index < (tableEntries ?? needed); index++) {
      const what = entries[index % entries.length]!;
      const first = index * format.clusterSize * 8;
      const meaningful = inUse ? Infinity : bits - first;
      this.entries.push(what === 'bits' ? new DataUnit(someBits(format, random, meaningful)) : what);
    }
  }
}

/** Random, but bits for what lies beyond the disk are 0. */
function someBits({ clusterSize }: ImageFormat, random: Random, meaningful: number): Uint8Array {
  const content = random.bytes(clusterSize);
  const whole = Math.floor(meaningful / 8);
  if (whole < clusterSize) {
    content[whole]! &= (1 << (meaningful % 8)) - 1;
    content.fill(0, whole + 1);
  }
  return content;
}

export function encodeBitmapDirectory(
  bitmaps: readonly Bitmap[],
  tableOffsets: readonly number[],
): Uint8Array {
  const parts = bitmaps.map(({ name, flags, granularityBits, entries }, index) => {
    const nameBytes = Buffer.from(name);
    const entry = Buffer.alloc(Math.ceil((24 + nameBytes.length) / 8) * 8);
    writeOffset(entry, tableOffsets[index] ?? 0, 0);
    entry.writeUInt32BE(entries.length, 8);
    entry.writeUInt32BE(flags, 12);
    entry.writeUInt8(1, 16);
    entry.writeUInt8(granularityBits, 17);
    entry.writeUInt16BE(nameBytes.length, 18);
    entry.set(nameBytes, 24);
    return entry;
  });
  return Buffer.concat(parts);
}

/** `offsetOf`: where the bits are. */
export function encodeBitmapTable({ entries }: Bitmap, offsetOf: (bits: DataUnit) => number): Uint8Array {
  const table = Buffer.alloc(entries.length * 8);
  for (const [index, entry] of entries.entries()) {
    writeOffset(table, entry instanceof DataUnit ? offsetOf(entry) : entry === 'ones' ? 1 : 0, index * 8);
  }
  return table;
}

export function encodeBitmapsExtension(
  count: number,
  directoryLength: number,
  directoryOffset: number,
): Buffer {
  const data = Buffer.alloc(24);
  data.writeUInt32BE(count, 0);
  writeOffset(data, directoryLength, 8);
  writeOffset(data, directoryOffset, 16);
  return data;
}
