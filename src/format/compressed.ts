/**
 * Compressed cluster descriptors (qcow2 specification, "Compressed Clusters Descriptor"): a byte offset and a
 * number of sectors in one L2 entry, whose border depends on the cluster size.
 */
import { SECTOR } from '../device/block-device.js';
import { TWO_32 } from './words.js';

/** Bits of the upper half that belong to the offset: the border is at bit 62 - (cluster bits - 8). */
function offsetBits(clusterBits: number): number {
  return 62 - (clusterBits - 8) - 32;
}

/** Host offset of the first byte. May exceed the file: compare before it is used. */
export function extentOffset(hi: number, lo: number, clusterBits: number): number {
  return (hi & ((1 << offsetBits(clusterBits)) - 1)) * TWO_32 + (lo >>> 0);
}

/** Bytes up to the end of the last sector: what is compressed ends somewhere in it. */
export function extentBytes(hi: number, lo: number, clusterBits: number): number {
  const moreSectors = (hi & 0x3fff_ffff) >>> offsetBits(clusterBits);
  return (moreSectors + 1) * SECTOR - (lo & (SECTOR - 1));
}

/** Bits 56 and above of the offset must be zero: no file is that long. */
export function extentReservedBits(hi: number, clusterBits: number): boolean {
  return (hi & ((1 << offsetBits(clusterBits)) - 1) & 0x3f00_0000) !== 0;
}

/** Puts another host offset into the descriptor at `position`; the number of sectors and bit 62 stay. */
export function retargetExtent(
  view: DataView,
  position: number,
  hostOffset: number,
  clusterBits: number,
): void {
  const mask = (1 << offsetBits(clusterBits)) - 1;
  const hi = view.getUint32(position);
  view.setUint32(position, ((hi & ~mask) | Math.floor(hostOffset / TWO_32)) >>> 0);
  view.setUint32(position + 4, hostOffset % TWO_32);
}
