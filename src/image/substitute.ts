/**
 * The bytes of a table for its new place: its entries already name the new places of what moves with it (I4).
 * The other half of the one visitor (references.ts): whoever adds a slot there adds it here.
 */
import { type Header, hasDataFile, l2EntryBytes } from '../format/header.js';
import { HI_COMPRESSED, entryOffset, retargetEntry, setCopied } from '../format/entries.js';
import { readWord, viewOf, writeWord } from '../format/words.js';
import type { BitmapEntry } from '../format/bitmaps.js';
import type { SnapshotEntry } from '../format/snapshots.js';

/** Where clusters go in the round at hand. */
export interface Relocation {
  /** New host cluster of `cluster`, or -1 where it stays. */
  destinationOf(cluster: number): number;
  /** Whether the entry that refers to `cluster` gets its COPIED flag with the move (I3). */
  flagged(cluster: number): boolean;
}

/** Substitutes the entries of L2 tables in place; bitmaps of subclusters stay, and so does what names another file. */
export function substituteL2(bytes: Uint8Array, header: Header, relocation: Relocation): void {
  if (hasDataFile(header)) return;
  substituteEntries(bytes, header.clusterBytes, relocation, l2EntryBytes(header));
}

/** Substitutes the entries of an L1 table or of a bitmap table (or of a part of one) in place. */
export function substituteEntries(
  bytes: Uint8Array,
  clusterBytes: number,
  relocation: Relocation,
  entryBytes = 8,
): void {
  const view = viewOf(bytes);
  for (let at = 0; at + 8 <= bytes.length; at += entryBytes) {
    const hi = view.getUint32(at);
    if ((hi & HI_COMPRESSED) !== 0) continue;
    const target = entryOffset(hi, view.getUint32(at + 4));
    if (target === 0) continue;
    const cluster = target / clusterBytes;
    const destination = relocation.destinationOf(cluster);
    if (destination < 0) continue;
    retargetEntry(view, at, destination * clusterBytes);
    if (relocation.flagged(cluster)) setCopied(view, at);
  }
}

/** Substitutes the L1 offsets of a whole snapshot table in place; every other byte stays. */
export function substituteSnapshots(
  bytes: Uint8Array,
  entries: readonly SnapshotEntry[],
  clusterBytes: number,
  relocation: Relocation,
): void {
  const view = viewOf(bytes);
  for (const { at, l1Entries } of entries) {
    if (l1Entries === 0) continue;
    const destination = relocation.destinationOf(readWord(view, at) / clusterBytes);
    if (destination >= 0) writeWord(view, at, destination * clusterBytes);
  }
}

/** Substitutes the tables' offsets of a whole bitmap directory in place; every other byte stays. */
export function substituteBitmaps(
  bytes: Uint8Array,
  entries: readonly BitmapEntry[],
  clusterBytes: number,
  relocation: Relocation,
): void {
  const view = viewOf(bytes);
  for (const { at } of entries) {
    const destination = relocation.destinationOf(readWord(view, at) / clusterBytes);
    if (destination >= 0) writeWord(view, at, destination * clusterBytes);
  }
}
