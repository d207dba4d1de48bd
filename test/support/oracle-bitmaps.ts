/** Where the persistent bitmaps of an image are, and whether two images have the same ones: part of the test oracle. */
import type { ImageLayout } from './oracle-layout.js';

export interface BitmapLayout {
  /** Bytes from the start of the directory, padding included. */
  readonly start: number;
  readonly end: number;
  readonly tableOffset: number;
  readonly tableEntries: number;
}

export interface BitmapsLayout {
  /** File offset of the field that says where the directory is. */
  readonly slot: number;
  readonly directoryOffset: number;
  readonly directoryLength: number;
  readonly bitmaps: readonly BitmapLayout[];
}

const EXTENSION_LENGTH = 24;

/** `extension`: its data in the header cluster; `isValid`: the autoclear bit that vouches for them. */
export function readBitmaps(
  view: DataView,
  extension: { readonly at: number; readonly length: number } | null,
  isValid: boolean,
  faults: string[],
): BitmapsLayout | null {
  if (extension === null || !isValid || extension.length !== EXTENSION_LENGTH) {
    if (extension !== null || isValid) {
      faults.push('header: bitmaps extension and autoclear bit do not agree');
    }
    return null;
  }
  const { at } = extension;
  const count = view.getUint32(at);
  const directoryLength = word(view, at + 8);
  const directoryOffset = word(view, at + 16);
  if (count === 0 || count > 65535 || view.getUint32(at + 4) !== 0) {
    faults.push(`header: ${count} bitmaps, reserved field ${view.getUint32(at + 4)}`);
    return null;
  }
  if (directoryOffset + directoryLength > view.byteLength) {
    faults.push('header: the bitmap directory is beyond the end of the file');
    return null;
  }
  const bitmaps: BitmapLayout[] = [];
  let start = 0;
  for (let index = 0; index < count; index++) {
    const position = directoryOffset + start;
    if (start + 24 > directoryLength) {
      faults.push(`bitmap directory: no room for entry ${index}`);
      return null;
    }
    const nameLength = view.getUint16(position + 18);
    const end = start + Math.ceil((24 + nameLength) / 8) * 8;
    const fault = faultOf(view, position);
    if (fault !== null || end > directoryLength) {
      faults.push(`bitmap directory: entry ${index}, ${fault ?? 'it is cut short'}`);
      return null;
    }
    bitmaps.push({
      start,
      end,
      tableOffset: word(view, position),
      tableEntries: view.getUint32(position + 8),
    });
    start = end;
  }
  if (start !== directoryLength) {
    faults.push(`bitmap directory: ${directoryLength} bytes, not ${start}`);
    return null;
  }
  return { slot: at + 16, directoryOffset, directoryLength, bitmaps };
}

function faultOf(view: DataView, position: number): string | null {
  const flags = view.getUint32(position + 12);
  const type = view.getUint8(position + 16);
  const granularity = view.getUint8(position + 17);
  const extraLength = view.getUint32(position + 20);
  if (flags > 3) {
    return `flags ${flags}`;
  }
  if (type !== 1) {
    return `type ${type}`;
  }
  if (granularity < 9 || granularity > 31) {
    return `granularity 2^${granularity}`;
  }
  return extraLength === 0 ? null : `${extraLength} bytes of extra data`;
}

/** Null where `after` has the same bitmaps: flags, names and all, and bits that read the same. */
export function compareBitmaps(before: ImageLayout, after: ImageLayout): string | null {
  if (before.bitmaps === null) {
    return after.bitmaps === null ? null : 'bitmaps came from nowhere';
  }
  if (after.bitmaps === null) {
    return 'the bitmaps are gone';
  }
  for (const [index, bitmap] of before.bitmaps.bitmaps.entries()) {
    const moved = after.bitmaps.bitmaps[index];
    if (moved === undefined) {
      return `bitmap ${index} is gone`;
    }
    const from = before.bitmaps.directoryOffset + bitmap.start + 8;
    const to = after.bitmaps.directoryOffset + moved.start + 8;
    const length = bitmap.end - bitmap.start - 8;
    if (!bytesAt(before, from, length).equals(bytesAt(after, to, length))) {
      return `entry ${index} of the bitmap directory differs`;
    }
    for (let entry = 0; entry < bitmap.tableEntries; entry++) {
      const one = bitsOf(before, bitmap.tableOffset + entry * 8);
      const other = bitsOf(after, moved.tableOffset + entry * 8);
      if (typeof one === 'string' || typeof other === 'string' ? one !== other : !one.equals(other)) {
        return `bitmap ${index}, entry ${entry}: the bits differ`;
      }
    }
  }
  return null;
}

/** The cluster that an entry of a table names, or what its bits are without one. */
function bitsOf(layout: ImageLayout, slot: number): Buffer | string {
  if (slot + 8 > layout.image.length) {
    return 'beyond the end of the file';
  }
  const entry = layout.view.getBigUint64(slot);
  const offset = Number(entry & 0x00ff_ffff_ffff_fe00n);
  return offset === 0 ? `all ${entry}` : bytesAt(layout, offset, layout.clusterSize);
}

/** Shorter where the file ends: a whole one of equal length is not the same then. */
function bytesAt({ image }: ImageLayout, offset: number, length: number): Buffer {
  return image.subarray(offset, offset + length);
}

function word(view: DataView, position: number): number {
  return Number(view.getBigUint64(position));
}
