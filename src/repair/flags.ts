/**
 * COPIED flags that do not say what the references say: exactly the entries of active tables whose target has one
 * reference carry it, no compressed one does, and of an external data file all do (hazards 4.3, 11).
 */
import type { BlockDevice } from '../device/block-device.js';
import { clearCopied, setCopied } from '../format/entries.js';
import { viewOf } from '../format/words.js';
import { type HostClusters, Kind } from '../image/host-clusters.js';
import type { Image } from '../image/image.js';
import { Flag, visitReferences } from '../image/references.js';
import { changedSpans } from '../recycler/reference-updater.js';

/** Host offsets of entries, ascending. */
export interface WrongFlags {
  toSet: Float64Array;
  toClear: Float64Array;
}

/** `clusters`: what the references say. */
export async function findWrongFlags(image: Image, clusters: HostClusters): Promise<WrongFlags> {
  const { clusterBytes } = image.header;
  const toSet: number[] = [];
  const toClear: number[] = [];
  await visitReferences(image, clusters, {
    reference(slot, target, _count, kind, _paths, flags) {
      if ((kind !== Kind.l2Table && kind !== Kind.data) || (flags & Flag.active) === 0) return;
      const isOnly = clusters.refs[target / clusterBytes] === 1;
      const isCopied = (flags & Flag.copied) !== 0;
      if (isOnly !== isCopied) (isOnly ? toSet : toClear).push(slot);
    },
    extent(slot, _offset, _lengthBytes, _paths, flags) {
      if ((flags & Flag.copied) !== 0) toClear.push(slot);
    },
    problem(_what, slot, flagAlone = false) {
      if (flagAlone) toSet.push(slot);
    },
  });
  return { toSet: Float64Array.from(toSet).sort(), toClear: Float64Array.from(toClear).sort() };
}

/** Entries are read and changed by the stretch. */
const STRETCH_BYTES = 64 << 10;

/** Sets or clears the flag of each entry; only their sectors, or those between near ones, are written. */
export async function writeFlags(device: BlockDevice, slots: Float64Array, copied: boolean): Promise<void> {
  const change = copied ? setCopied : clearCopied;
  const buffer = new Uint8Array(STRETCH_BYTES);
  for (let i = 0; i < slots.length;) {
    const start = slots[i]! - (slots[i]! % STRETCH_BYTES);
    const positions: number[] = [];
    for (; i < slots.length && slots[i]! < start + STRETCH_BYTES; i++) positions.push(slots[i]! - start);
    await device.read(buffer, start);
    const view = viewOf(buffer);
    for (const position of positions) change(view, position);
    for (const [from, to] of changedSpans(positions)) {
      await device.write(buffer.subarray(from, to), start + from);
    }
  }
}
