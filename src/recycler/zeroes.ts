/** Making a stretch of the file read as zeroes: a hole needs nothing, a host that can punch writes nothing. */
import type { BlockDevice } from '../device/block-device.js';

/** One shared buffer of zeroes: no write of zeroes is longer (C17). */
export const ZEROES = new Uint8Array(1 << 20);

/** Writes zeroes over [offset, offset + length) in writes of at most 1 MiB. */
export async function writeZeroes(device: BlockDevice, offset: number, lengthBytes: number): Promise<void> {
  for (let at = 0; at < lengthBytes; at += ZEROES.length) {
    await device.write(ZEROES.subarray(0, Math.min(ZEROES.length, lengthBytes - at)), offset + at);
  }
}

/** Makes the range read as zeroes without allocating host blocks where that can be had (I10). */
export async function makeHole(device: BlockDevice, offset: number, lengthBytes: number): Promise<void> {
  // Blocks beyond the end of the file are made by writing, so that the file gets its length.
  const inside = offset + lengthBytes <= device.lengthBytes;
  if (inside && device.dataExtent(offset, offset + lengthBytes) === null) return;
  if (inside && device.canPunch) await device.punch(offset, lengthBytes);
  else await writeZeroes(device, offset, lengthBytes);
}
