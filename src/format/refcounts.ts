/**
 * Refcount blocks (qcow2 specification, "Host cluster management"): 2^order bits a count; widths below
 * a byte are packed least significant bits first, wider ones are big-endian.
 */
import { readHalfwords, viewOf } from './words.js';

/** Counts are held as 32-bit numbers; a wider count on disk is held as this (it can only be a leak). */
export const SATURATED = 0xffff_ffff;

/** Counts that one refcount block holds. */
export function countsPerBlock(clusterBytes: number, refcountOrder: number): number {
  return (clusterBytes * 8) / 2 ** refcountOrder;
}

/** Counts that one 512-byte sector of a block holds: 64 (64 bits) to 4096 (1 bit). */
export function countsPerSector(refcountOrder: number): number {
  return 4096 / 2 ** refcountOrder;
}

/** Greatest count of that width, saturated to what we hold. */
export function greatestCount(refcountOrder: number): number {
  return refcountOrder >= 5 ? SATURATED : 2 ** (2 ** refcountOrder) - 1;
}

/** Decodes `counts.length` counts from the start of `bytes`. */
export function decodeCounts(bytes: Uint8Array, refcountOrder: number, counts: Uint32Array): void {
  const view = viewOf(bytes);
  const length = counts.length;
  switch (refcountOrder) {
    case 3:
      counts.set(bytes.subarray(0, length));
      break;
    case 4:
      // The width that every image has unless somebody asked for another.
      counts.set(readHalfwords(bytes.subarray(0, length * 2)));
      break;
    case 5:
      for (let i = 0; i < length; i++) counts[i] = view.getUint32(i * 4);
      break;
    case 6:
      for (let i = 0; i < length; i++) {
        counts[i] = view.getUint32(i * 8) === 0 ? view.getUint32(i * 8 + 4) : SATURATED;
      }
      break;
    default: {
      const bits = 1 << refcountOrder;
      const perByte = 8 / bits;
      const mask = (1 << bits) - 1;
      for (let i = 0; i < length; i++) {
        const byte = bytes[Math.floor(i / perByte)]!;
        counts[i] = (byte >> ((i % perByte) * bits)) & mask;
      }
    }
  }
}

/** Encodes `counts` into the start of `bytes`; bytes beyond them are left alone. */
export function encodeCounts(bytes: Uint8Array, refcountOrder: number, counts: Uint32Array): void {
  const view = viewOf(bytes);
  const length = counts.length;
  switch (refcountOrder) {
    case 3:
      for (let i = 0; i < length; i++) bytes[i] = counts[i]!;
      break;
    case 4:
      for (let i = 0; i < length; i++) view.setUint16(i * 2, counts[i]!);
      break;
    case 5:
      for (let i = 0; i < length; i++) view.setUint32(i * 4, counts[i]!);
      break;
    case 6:
      for (let i = 0; i < length; i++) {
        view.setUint32(i * 8, 0);
        view.setUint32(i * 8 + 4, counts[i]!);
      }
      break;
    default: {
      const bits = 1 << refcountOrder;
      const perByte = 8 / bits;
      const mask = (1 << bits) - 1;
      for (let i = 0; i < length; i++) {
        const at = Math.floor(i / perByte);
        const shift = (i % perByte) * bits;
        bytes[at] = (bytes[at]! & ~(mask << shift)) | ((counts[i]! & mask) << shift);
      }
    }
  }
}
