/** The refcount table as the file has it: which block describes which range, and what is wrong with an entry. */
import { SECTOR } from '../device/block-device.js';
import { QcowError, hex } from '../errors.js';
import { entryOffset, refcountTableReservedBits } from '../format/entries.js';
import type { Header } from '../format/header.js';
import { isZero, swapHalves } from '../format/words.js';

export interface RefcountTable {
  /** Host offset of each block; 0 where there is none. */
  blocks: Float64Array;
  /** Indices of those that there are, ascending. */
  present: number[];
}

/** What is wrong with an entry of the refcount table. */
export interface TableFault {
  what: string;
  /** Host offset of the entry. */
  slot: number;
}

/**
 * Decodes the refcount table, in place. Where an entry is not a cluster of this file it throws, or goes on without
 * that block where `onFault` takes the damage.
 */
export function decodeRefcountTable(
  bytes: Uint8Array,
  header: Header,
  clusterCount: number,
  onFault?: (fault: TableFault) => void,
): RefcountTable {
  const blocks = new Float64Array(bytes.length / 8);
  const present: number[] = [];
  const halves = swapHalves(bytes);
  const perSector = SECTOR / 8;
  for (let i = 0; i < blocks.length; i++) {
    // Most of a table is room to grow: it is passed by the sector.
    if (i % perSector === 0 && isZero(bytes.subarray(i * 8, i * 8 + SECTOR))) {
      i += perSector - 1;
      continue;
    }
    const hi = halves[2 * i]!;
    const lo = halves[2 * i + 1]!;
    if ((hi | lo) === 0) continue;
    const offset = entryOffset(hi, lo);
    const what = tableEntryFault(hi, lo, header.clusterBytes, clusterCount);
    if (what === null) {
      blocks[i] = offset;
      present.push(i);
    } else if (onFault !== undefined) onFault({ what, slot: header.refcountTableOffset + i * 8 });
    else {
      throw new QcowError('CORRUPT', what, {
        where: `refcount table at ${hex(header.refcountTableOffset)}, entry ${i}`,
        hint: 'repair the image with `--repair` first',
      });
    }
  }
  return { blocks, present };
}

function tableEntryFault(hi: number, lo: number, clusterBytes: number, clusterCount: number): string | null {
  const offset = entryOffset(hi, lo);
  if (refcountTableReservedBits(hi, lo)) return 'reserved bits are set in a refcount table entry';
  if (offset % clusterBytes !== 0) return 'a refcount block is not aligned to the cluster size';
  if (offset / clusterBytes >= clusterCount) return 'a refcount block lies beyond the end of the file';
  return null;
}
