/** The part of the one visitor (references.ts) that knows the persistent bitmaps. */
import { bitmapTableFault } from '../format/bitmaps.js';
import { entryOffset } from '../format/entries.js';
import type { HoleFinder } from './hole-finder.js';
import { Kind } from './host-clusters.js';
import { type Image, clustersFor } from './image.js';
import type { ReferenceVisitor } from './references.js';
import { readPieces } from './table-reader.js';

/** Directory, tables, and what these name. Each has one owner, so that no entry has a COPIED flag (hazard 9). */
export async function visitBitmaps(
  image: Image,
  holes: HoleFinder,
  visitor: ReferenceVisitor,
): Promise<void> {
  if (image.bitmaps === null) return;
  const { directory, entries } = image.bitmaps;
  const { clusterBytes } = image.header;
  const directoryClusters = clustersFor(directory.lengthBytes, clusterBytes);
  visitor.reference(directory.slot, directory.offset, directoryClusters, Kind.bitmapDirectory, 1, 0);
  for (const { at, tableOffset, tableEntries } of entries) {
    const tableClusters = clustersFor(tableEntries * 8, clusterBytes);
    visitor.reference(directory.offset + at, tableOffset, tableClusters, Kind.bitmapTable, 1, 0);
  }
  for (const { tableOffset, tableEntries } of entries) {
    await readPieces(image.device, holes, tableOffset, tableEntries * 8, (offset, halves) => {
      for (let i = 0; i < halves.length; i += 2) {
        const hi = halves[i]!;
        const lo = halves[i + 1]!;
        if ((hi | lo) === 0) continue;
        const slot = offset + i * 4;
        const fault = bitmapTableFault(hi, lo);
        if (fault !== null) visitor.problem?.(fault, slot);
        const target = entryOffset(hi, lo);
        if (target !== 0) visitor.reference(slot, target, 1, Kind.bitmapData, 1, 0);
      }
    });
  }
}
