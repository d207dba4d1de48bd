/**
 * L1, L2 and refcount-table entries (qcow2 specification, "Cluster mapping" and "Host cluster management").
 * An entry is two 32-bit halves (hi, lo). Bits 9..55 hold a host offset; everything else is kept as it is.
 */
import { TWO_32 } from './words.js';

/** Bit 63: the refcount of the target is exactly one (active tables only). */
export const HI_COPIED = 0x8000_0000;
/** Bit 62 of an L2 entry: the rest is a compressed cluster descriptor. */
export const HI_COMPRESSED = 0x4000_0000;
/** Bit 0 of a version 3 L2 entry of 8 bytes: reads as zeroes, whatever the offset holds. */
export const LO_ZERO = 1;

const HI_OFFSET_MASK = 0x00ff_ffff;
const LO_OFFSET_MASK = 0xffff_fe00;

/** Bits 56..62 and 0..8: reserved in an L1 entry. */
export function l1ReservedBits(hi: number, lo: number): boolean {
  return (hi & 0x7f00_0000) !== 0 || (lo & 0x1ff) !== 0;
}

/** Bits 56..61 and 1..8, and bit 0 where there is no zero flag: reserved in a standard L2 entry. */
export function l2ReservedBits(hi: number, lo: number, hasZeroFlag: boolean): boolean {
  return (hi & 0x3f00_0000) !== 0 || (lo & (hasZeroFlag ? 0x1fe : 0x1ff)) !== 0;
}

/**
 * What is wrong with the second word of an extended L2 entry: `zero`, its upper half, has a bit for each
 * subcluster that reads as zeroes, `allocated` one for each whose data are in the cluster.
 */
export function subclusterFault(
  hi: number,
  hasCluster: boolean,
  zero: number,
  allocated: number,
): string | null {
  if ((hi & HI_COMPRESSED) !== 0) {
    return (zero | allocated) === 0 ? null : 'a compressed cluster has a bitmap of subclusters';
  }
  if ((zero & allocated) !== 0) return 'a subcluster is allocated and reads as zeroes at the same time';
  if (allocated !== 0 && !hasCluster) return 'subclusters are allocated in an entry without a cluster';
  return null;
}

/** Bits 56..63 would put the offset out of range and bits 0..8 are reserved in a refcount-table entry. */
export function refcountTableReservedBits(hi: number, lo: number): boolean {
  return (hi & 0xff00_0000) !== 0 || (lo & 0x1ff) !== 0;
}

/** The one fault of such an entry that is of its flag alone. */
export const EXTERNAL_WITHOUT_COPIED = 'a cluster in an external data file is without COPIED';

/**
 * What is wrong with an L2 entry of an image with an external data file. Its clusters are not counted, so that
 * QEMU takes each for one with a refcount of 1; offset 0 is a cluster where COPIED is set.
 */
export function externalFault(
  hi: number,
  lo: number,
  hasZeroFlag: boolean,
  clusterBytes: number,
): string | null {
  if ((hi & HI_COMPRESSED) !== 0) return 'a cluster in an external data file is compressed';
  if (l2ReservedBits(hi, lo, hasZeroFlag)) return 'reserved bits are set in an L2 entry';
  const offset = entryOffset(hi, lo);
  if (offset % clusterBytes !== 0) return 'a cluster in the external data file is not aligned';
  if (offset !== 0 && (hi & HI_COPIED) === 0) return EXTERNAL_WITHOUT_COPIED;
  return null;
}

/** Host offset of an entry: bits 9..55. May exceed 2^53: compare, do not compute, before it is bounded. */
export function entryOffset(hi: number, lo: number): number {
  return (hi & HI_OFFSET_MASK) * TWO_32 + ((lo & LO_OFFSET_MASK) >>> 0);
}

/** Puts another host offset into the entry at `position`; all bits but 9..55 stay (hazard 4.2). */
export function retargetEntry(view: DataView, position: number, hostOffset: number): void {
  const hi = view.getUint32(position);
  const lo = view.getUint32(position + 4);
  view.setUint32(position, ((hi & ~HI_OFFSET_MASK) | Math.floor(hostOffset / TWO_32)) >>> 0);
  view.setUint32(position + 4, ((lo & ~LO_OFFSET_MASK) | ((hostOffset % TWO_32) & LO_OFFSET_MASK)) >>> 0);
}

/** Sets bit 63 of the entry at `position`. */
export function setCopied(view: DataView, position: number): void {
  view.setUint32(position, (view.getUint32(position) | HI_COPIED) >>> 0);
}

export function clearCopied(view: DataView, position: number): void {
  view.setUint32(position, (view.getUint32(position) & ~HI_COPIED) >>> 0);
}
