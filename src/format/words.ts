/**
 * Big-endian 64-bit words as two 32-bit halves: what hot loops read instead of BigInt
 * (2 x getUint32 takes 2 ns an entry, readBigUInt64BE 70 ns).
 */

export const TWO_32 = 0x1_0000_0000;
/** Offsets are held as JavaScript numbers, exact below this. */
export const OFFSET_LIMIT = Number.MAX_SAFE_INTEGER;

/** The value of two halves, or NaN where a number cannot hold it exactly (2^53 and above). */
export function wordOf(hi: number, lo: number): number {
  return hi < 0x200000 ? hi * TWO_32 + lo : Number.NaN;
}

export function highHalf(value: number): number {
  return Math.floor(value / TWO_32);
}

export function lowHalf(value: number): number {
  return value % TWO_32;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A u64 field as a number; NaN where it is 2^53 or more. */
export function readWord(view: DataView, position: number): number {
  return wordOf(view.getUint32(position), view.getUint32(position + 4));
}

export function writeWord(view: DataView, position: number, value: number): void {
  view.setUint32(position, highHalf(value));
  view.setUint32(position + 4, lowHalf(value));
}

const ZERO_PAGE = new Uint8Array(4096);

/** Whether every byte is 0: a memcmp by pages, which ends at the first that is not. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZERO_PAGE.length) {
    const page = bytes.subarray(at, at + ZERO_PAGE.length);
    if (Buffer.compare(page, ZERO_PAGE.subarray(0, page.length)) !== 0) return false;
  }
  return true;
}

/** Writes zeroes only where there is something else, so that memory that nobody has touched costs nothing. */
export function clear(words: Uint32Array | Uint8Array, from: number, end: number): void {
  for (let i = from; i < end; i++) if (words[i] !== 0) words[i] = 0;
}

const LITTLE_ENDIAN_HOST = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** The 16-bit big-endian numbers of `bytes`, copied into the host's order (4 times as fast as getUint16). */
export function readHalfwords(bytes: Uint8Array): Uint16Array {
  const copy = new Uint8Array(bytes);
  if (LITTLE_ENDIAN_HOST) Buffer.from(copy.buffer).swap16();
  return new Uint16Array(copy.buffer);
}

/**
 * Turns big-endian 64-bit entries into the host's order, in place: halves hi, lo, hi, lo. Signed, since a hot
 * loop that has not been compiled yet allocates for each number above 2^31, as every COPIED entry has one.
 */
export function swapHalves(bytes: Uint8Array): Int32Array {
  if (LITTLE_ENDIAN_HOST) Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).swap32();
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}
