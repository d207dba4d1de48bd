/**
 * The snapshot table (qcow2 specification, "Snapshots"): variable entries, each aligned to 8 bytes. Only the
 * L1 table's offset in an entry ever changes; all else, unknown extra data included, stays as bytes.
 */
import { viewOf, readWord } from './words.js';

const FIXED_BYTES = 40;
const MAX_EXTRA_BYTES = 1024;
const MAX_L1_BYTES = 32 * 1024 * 1024;
export const MAX_SNAPSHOT_TABLE_BYTES = 64 * 1024 * 1024;
/** A version 3 entry has at least this much extra data (vm_state_size, disk_size). */
const REQUIRED_EXTRA_BYTES = 16;

export interface SnapshotEntry {
  /** Byte position of the entry in the table; its L1 offset is its first field. */
  at: number;
  l1Offset: number;
  l1Entries: number;
}

export interface SnapshotTable {
  entries: SnapshotEntry[];
  /** Bytes of the table, the last entry's padding left out as QEMU does. */
  lengthBytes: number;
}

/** Parses `count` entries; answers what is wrong, in words, where they are not well-formed. */
export function parseSnapshotTable(
  bytes: Uint8Array,
  count: number,
  version: number,
): SnapshotTable | string {
  const view = viewOf(bytes);
  const entries: SnapshotEntry[] = [];
  let at = 0;
  let lengthBytes = 0;
  for (let index = 0; index < count; index++) {
    at = Math.ceil(at / 8) * 8;
    if (at + FIXED_BYTES > bytes.length) return `snapshot table entry ${index} lies beyond the end`;
    const extraBytes = view.getUint32(at + 36);
    const l1Entries = view.getUint32(at + 8);
    if (extraBytes > MAX_EXTRA_BYTES)
      return `snapshot table entry ${index}: ${extraBytes} bytes of extra data`;
    if (version >= 3 && extraBytes < REQUIRED_EXTRA_BYTES)
      return `snapshot table entry ${index} is incomplete`;
    if (l1Entries * 8 > MAX_L1_BYTES)
      return `snapshot table entry ${index}: L1 table of ${l1Entries} entries`;
    lengthBytes = at + FIXED_BYTES + extraBytes + view.getUint16(at + 12) + view.getUint16(at + 14);
    if (lengthBytes > bytes.length) return `snapshot table entry ${index} lies beyond the end`;
    entries.push({ at, l1Offset: readWord(view, at), l1Entries });
    at = lengthBytes;
  }
  return { entries, lengthBytes };
}
