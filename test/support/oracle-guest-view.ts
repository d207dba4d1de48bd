/**
 * What a guest can see of an image: every cluster of the active layer and of every snapshot, virtual
 * machine state included, what the header and the snapshot table say of them, and the bitmaps. Comparison is by
 * content and independent of where things are in the file.
 */
import { constants, inflateRawSync } from 'node:zlib';
import { compareBitmaps } from './oracle-bitmaps.js';
import { decryptSectors, encryptSectors } from './luks.js';
import { compressedExtent, readLayout, type ImageLayout } from './oracle-layout.js';

/** How an image looked: its own copy of the bytes, and where the guest's clusters are in it. */
export interface GuestView {
  readonly layout: ImageLayout;
}

const UNALLOCATED = 0;
const ZERO = 1;
const PRESENT = 2;
const COMPRESSED = 3;
const KIND_NAMES = ['unallocated', 'zero', 'data', 'compressed'];
/** Parts of the header that compaction may not change: all but four table offsets and one table size. */
function unchangingHeader({ clusterSize, bitmaps }: ImageLayout): [start: number, end: number][] {
  const slot = bitmaps?.slot ?? clusterSize;
  return [
    [0, 40],
    [60, 64],
    [72, slot],
    [Math.min(slot + 8, clusterSize), clusterSize],
  ];
}

export function guestView(bytes: Uint8Array): GuestView {
  const layout = readLayout(Uint8Array.from(bytes));
  if (typeof layout === 'string') {
    throw new Error(layout);
  }
  if (layout.faults.length > 0) {
    throw new Error(layout.faults.join('\n'));
  }
  return { layout };
}

/** Null when the guest sees the same; otherwise the first difference. */
export function compareGuestView(before: GuestView, bytes: Uint8Array): string | null {
  const after = readLayout(bytes);
  if (typeof after === 'string') {
    return after;
  }
  return (
    compareHeaders(before.layout, after) ??
    compareEncryptionHeaders(before.layout, after) ??
    compareBitmaps(before.layout, after) ??
    compareSnapshotTables(before.layout, after) ??
    new Comparison(before.layout, after).run()
  );
}

/**
 * The bytes that the guest reads: from the active layer (-1) or from the snapshot with that index,
 * for an image without a backing file and without clusters compressed with zstd.
 */
export function readGuest(view: GuestView, layer = -1): Uint8Array {
  const { layout } = view;
  const { clusterSize, virtualSize } = layout;
  const { l1Offset, l1Size } = layer < 0 ? layout : snapshotAt(layout, layer);
  const result = new Uint8Array(virtualSize);
  const entries = clusterSize / layout.l2EntrySize;
  for (let guest = 0; guest * clusterSize < virtualSize; guest++) {
    const l1Index = Math.floor(guest / entries);
    const l2 = l1Index < l1Size ? targetAt(layout, l1Offset + l1Index * 8) : 0;
    const slot = l2 + (guest % entries) * layout.l2EntrySize;
    const kind = l2 === 0 ? UNALLOCATED : kindAt(layout, slot);
    if (kind === PRESENT || kind === COMPRESSED) {
      const start = targetAt(layout, slot);
      const data = kind === COMPRESSED ? inflated(layout, slot) : plainCluster(layout, start);
      result.set(
        data.subarray(0, Math.min(clusterSize, virtualSize - guest * clusterSize)),
        guest * clusterSize,
      );
    }
  }
  return result;
}

/** As the guest sees it; what is compressed is never encrypted. */
function plainCluster(layout: ImageLayout, start: number): Buffer {
  const stored = layout.image.subarray(start, start + layout.clusterSize);
  return layout.hasKnownKey ? decryptSectors(stored, start) : stored;
}

/** What follows the compressed data in the extent's last sector, a neighbour's mostly, is not looked at. */
function inflated(layout: ImageLayout, slot: number): Uint8Array {
  if (layout.compressionType !== 0) {
    throw new Error('compressed, but not with zlib');
  }
  const { offset, length } = extentAt(layout, slot);
  const padded = Buffer.alloc(length);
  layout.image.copy(padded, 0, offset, offset + length);
  const data = inflateRawSync(padded, {
    windowBits: 12,
    finishFlush: constants.Z_SYNC_FLUSH,
    maxOutputLength: layout.clusterSize,
  });
  if (data.length !== layout.clusterSize) {
    throw new Error(`the extent at ${offset} holds ${data.length} bytes, not a cluster`);
  }
  return data;
}

function snapshotAt(layout: ImageLayout, index: number): { l1Offset: number; l1Size: number } {
  const snapshot = layout.snapshots[index];
  if (snapshot === undefined) {
    throw new Error(`no snapshot with index ${index}`);
  }
  return snapshot;
}

function compareHeaders(before: ImageLayout, after: ImageLayout): string | null {
  for (const [start, end] of unchangingHeader(before)) {
    if (end > after.image.length || before.image.compare(after.image, start, end, start, end) !== 0) {
      return `the header cluster differs in bytes ${start} to ${end - 1}`;
    }
  }
  return null;
}

/** What leads to it is part of the header cluster. */
function compareEncryptionHeaders(before: ImageLayout, after: ImageLayout): string | null {
  if (before.encryptionHeader === null) {
    return null;
  }
  const { offset, length } = before.encryptionHeader;
  return sameBytes(before.image, offset, after.image, offset, length)
    ? null
    : 'the encryption header differs';
}

/** All of each entry counts, except where the snapshot's L1 table is. */
function compareSnapshotTables(before: ImageLayout, after: ImageLayout): string | null {
  if (after.faults.length > 0) {
    return after.faults[0] ?? null;
  }
  for (const [index, { start, end }] of before.snapshots.entries()) {
    const from = before.snapshotsOffset + start + 8;
    const to = after.snapshotsOffset + start + 8;
    const length = end - start - 8;
    if (
      to + length > after.image.length ||
      before.image.compare(after.image, to, to + length, from, from + length) !== 0
    ) {
      return `entry ${index} of the snapshot table differs`;
    }
  }
  return null;
}

const encrypted = new WeakMap<ImageLayout, Map<string, Buffer>>();

class Comparison {
  /** The cluster of `after` last found equal to this cluster of `before`, plus one. */
  private readonly equalData: Int32Array;
  private readonly equalL2: Int32Array;

  constructor(
    private readonly before: ImageLayout,
    private readonly after: ImageLayout,
  ) {
    this.equalData = new Int32Array(before.clusterCount);
    this.equalL2 = new Int32Array(before.clusterCount);
  }

  run(): string | null {
    const { before, after } = this;
    const active = this.compareLayer(before.l1Offset, after.l1Offset, before.l1Size);
    if (active !== null) {
      return `active layer, ${active}`;
    }
    for (const [index, snapshot] of before.snapshots.entries()) {
      const moved = snapshotAt(after, index);
      const difference = this.compareLayer(snapshot.l1Offset, moved.l1Offset, snapshot.l1Size);
      if (difference !== null) {
        return `snapshot ${snapshot.id}, ${difference}`;
      }
    }
    return null;
  }

  private compareLayer(l1Before: number, l1After: number, l1Size: number): string | null {
    const { before, after } = this;
    if (l1Size > 0 && l1After + l1Size * 8 > after.image.length) {
      return 'L1 table beyond the end of the file';
    }
    for (let index = 0; index < l1Size; index++) {
      const l2Before = targetAt(before, l1Before + index * 8);
      const l2After = targetAt(after, l1After + index * 8);
      if (l2Before === 0 && l2After === 0) {
        continue;
      }
      const difference = this.compareL2(l2Before, l2After);
      if (difference !== null) {
        return `L1 entry ${index}, ${difference}`;
      }
    }
    return null;
  }

  /** Offset 0 stands for a table in which nothing is allocated. */
  private compareL2(l2Before: number, l2After: number): string | null {
    const { before, after } = this;
    const { clusterSize } = before;
    const memo = l2Before / clusterSize;
    if (l2Before !== 0 && this.equalL2[memo] === l2After / clusterSize + 1) {
      return null;
    }
    if (l2Before + clusterSize > before.image.length || l2After + clusterSize > after.image.length) {
      return 'L2 table beyond the end of the file';
    }
    const { l2EntrySize, dataFile } = before;
    for (let position = 0; position < clusterSize; position += l2EntrySize) {
      if (dataFile) {
        if (!this.sameWords(l2Before + position, l2After + position, l2EntrySize)) {
          return `L2 entry ${position / l2EntrySize}: it changed, but is of an external data file`;
        }
        continue;
      }
      const kind = l2Before === 0 ? UNALLOCATED : kindAt(before, l2Before + position);
      const kindAfter = l2After === 0 ? UNALLOCATED : kindAt(after, l2After + position);
      if (kind !== kindAfter) {
        return `L2 entry ${position / l2EntrySize}: was ${KIND_NAMES[kind]}, is ${KIND_NAMES[kindAfter]}`;
      }
      if (l2EntrySize === 16 && !this.sameWords(l2Before + position + 8, l2After + position + 8, 8)) {
        return `L2 entry ${position / l2EntrySize}: the bitmaps of subclusters differ`;
      }
      if (
        before.encryptionHeader !== null &&
        !before.hasKnownKey &&
        kind === PRESENT &&
        targetAt(before, l2Before + position) !== targetAt(after, l2After + position)
      ) {
        return `L2 entry ${position / l2EntrySize}: the encrypted data were moved`;
      }
      if (
        kind === PRESENT &&
        !this.sameData(targetAt(before, l2Before + position), targetAt(after, l2After + position))
      ) {
        return `L2 entry ${position / l2EntrySize}: the data differ`;
      }
      if (kind === COMPRESSED && !this.sameExtent(l2Before + position, l2After + position)) {
        return `L2 entry ${position / l2EntrySize}: the compressed data differ`;
      }
    }
    this.equalL2[memo] = l2After / clusterSize + 1;
    return null;
  }

  /** An L2 table at 0 is none: all zero. */
  private sameWords(from: number, to: number, length: number): boolean {
    const { before, after } = this;
    const word = ({ view }: ImageLayout, position: number) =>
      position < before.clusterSize ? 0n : view.getBigUint64(position);
    for (let at = 0; at < length; at += 8) {
      if (word(before, from + at) !== word(after, to + at)) {
        return false;
      }
    }
    return true;
  }

  private sameData(from: number, to: number): boolean {
    const { clusterSize } = this.before;
    const memo = from / clusterSize;
    const marker = to / clusterSize + 1;
    if (this.equalData[memo] === marker) {
      return true;
    }
    const same = this.before.hasKnownKey
      ? sameBytes(this.encryptedFor(from, to), 0, this.after.image, to, clusterSize)
      : sameBytes(this.before.image, from, this.after.image, to, clusterSize);
    if (same) {
      this.equalData[memo] = marker;
    }
    return same;
  }

  /** The cluster of `before` that begins at `from`, as it has to be at `to`; kept, since most states have the same moves. */
  private encryptedFor(from: number, to: number): Buffer {
    const { before } = this;
    let kept = encrypted.get(before);
    if (kept === undefined) {
      kept = new Map();
      encrypted.set(before, kept);
    }
    let cluster = kept.get(`${from} ${to}`);
    if (cluster === undefined) {
      const stored = before.image.subarray(from, from + before.clusterSize);
      cluster = from === to ? stored : encryptSectors(decryptSectors(stored, from), to);
      kept.set(`${from} ${to}`, cluster);
    }
    return cluster;
  }

  private sameExtent(slotBefore: number, slotAfter: number): boolean {
    const from = extentAt(this.before, slotBefore);
    const to = extentAt(this.after, slotAfter);
    return (
      from.length === to.length &&
      sameBytes(this.before.image, from.offset, this.after.image, to.offset, from.length)
    );
  }
}

function targetAt(layout: ImageLayout, slot: number): number {
  return (
    (layout.view.getUint32(slot) & 0x00ffffff) * 0x1_0000_0000 +
    ((layout.view.getUint32(slot + 4) & 0xfffffe00) >>> 0)
  );
}

function kindAt(layout: ImageLayout, slot: number): number {
  const high = layout.view.getUint32(slot);
  const low = layout.view.getUint32(slot + 4);
  if (high === 0 && low === 0) {
    return UNALLOCATED;
  }
  if ((high & 0x40000000) !== 0) {
    return COMPRESSED;
  }
  if ((low & 1) !== 0 && layout.l2EntrySize === 8) {
    return ZERO;
  }
  // Of a cluster without an allocated subcluster nothing is read.
  if (layout.l2EntrySize === 16 && layout.view.getUint32(slot + 12) === 0) {
    return UNALLOCATED;
  }
  return (high & 0x00ffffff) === 0 && (low & 0xfffffe00) === 0 ? UNALLOCATED : PRESENT;
}

function extentAt(layout: ImageLayout, slot: number): { offset: number; length: number } {
  return compressedExtent(layout.view.getUint32(slot), layout.view.getUint32(slot + 4), layout.clusterBits);
}

/** What is past the end of either image reads as zeroes. */
function sameBytes(before: Buffer, from: number, after: Buffer, to: number, length: number): boolean {
  if (from + length <= before.length && to + length <= after.length) {
    return before.compare(after, to, to + length, from, from + length) === 0;
  }
  for (let position = 0; position < length; position++) {
    if ((before[from + position] ?? 0) !== (after[to + position] ?? 0)) {
      return false;
    }
  }
  return true;
}
