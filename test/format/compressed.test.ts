import { describe, expect, test } from 'vitest';
import {
  extentBytes,
  extentOffset,
  extentReservedBits,
  retargetExtent,
} from '../../src/format/compressed.js';

const COMPRESSED = 1n << 62n;

/** As the specification has it, in 64-bit numbers. */
function descriptor(clusterBits: number, offset: bigint, moreSectors: bigint): [number, number] {
  const word = COMPRESSED | (moreSectors << BigInt(62 - (clusterBits - 8))) | offset;
  return [Number(word >> 32n), Number(word & 0xffff_ffffn)];
}

describe.each([9, 10, 12, 16, 21])('clusters of 2^%i bytes', (clusterBits) => {
  const mostSectors = BigInt(2 ** (clusterBits - 8) - 1);

  test.each([0n, 1n, mostSectors])('%i sectors more', (moreSectors) => {
    for (const offset of [512n, 0x1234_5678n, 0xffff_ffffn, 0x1_0000_0000n, 0x1_0000_0000_01ffn]) {
      const [hi, lo] = descriptor(clusterBits, offset, moreSectors);
      expect(extentOffset(hi, lo, clusterBits)).toBe(Number(offset));
      expect(extentBytes(hi, lo, clusterBits)).toBe(Number((moreSectors + 1n) * 512n - (offset % 512n)));
      expect(extentReservedBits(hi, clusterBits)).toBe(false);
    }
  });

  test('another offset leaves the number of sectors and bit 62 as they are', () => {
    const [hi, lo] = descriptor(clusterBits, 0x1_2345_6789n, mostSectors);
    const view = new DataView(new ArrayBuffer(24));
    view.setUint32(8, hi);
    view.setUint32(12, lo);
    retargetExtent(view, 8, 0x3_0000_0189, clusterBits);
    const expected = descriptor(clusterBits, 0x3_0000_0189n, mostSectors);
    expect([view.getUint32(8), view.getUint32(12)]).toEqual(expected);
    expect([view.getBigUint64(0), view.getBigUint64(16)]).toEqual([0n, 0n]);
  });
});

test('an offset of 2^56 and above is reserved, where the descriptor has such bits', () => {
  const [hi] = descriptor(9, 1n << 56n, 0n);
  expect(extentReservedBits(hi, 9)).toBe(true);
  // With clusters of 2 MiB these bits belong to the number of sectors.
  const [sectors] = descriptor(21, 0n, 1n << 8n);
  expect(extentReservedBits(sectors, 21)).toBe(false);
});
