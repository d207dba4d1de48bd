import { describe, expect, test } from 'vitest';
import {
  SATURATED,
  countsPerBlock,
  countsPerSector,
  decodeCounts,
  encodeCounts,
  greatestCount,
} from '../../src/format/refcounts.js';
import { Random } from '../support/random.js';
import { hex } from './bytes.js';

/** Order, bytes on disk, the counts that they are. Widths below a byte: least significant bits first. */
const GOLDEN: [order: number, bytes: string, counts: number[]][] = [
  [0, '05 80', [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
  [1, '1b e4', [3, 2, 1, 0, 0, 1, 2, 3]],
  [2, '21 0f', [1, 2, 15, 0]],
  [3, '01 00 ff 80', [1, 0, 255, 128]],
  [4, '0001 0000 0100 ffff', [1, 0, 256, 65535]],
  [5, '00000001 00010000 ffffffff', [1, 65536, 0xffffffff]],
  [6, '0000000000000001 00000000ffffffff 0000000000000000', [1, 0xffffffff, 0]],
];

describe('refcounts', () => {
  test.each(GOLDEN)('order %i: %s', (order, text, counts) => {
    const bytes = hex(text);
    const decoded = new Uint32Array(counts.length);
    decodeCounts(bytes, order, decoded);
    expect([...decoded]).toEqual(counts);
    const encoded = new Uint8Array(bytes.length);
    encodeCounts(encoded, order, Uint32Array.from(counts));
    expect(encoded).toEqual(bytes);
  });

  test('64 bits: a count of 2^32 or more is held as the greatest that we hold', () => {
    const counts = new Uint32Array(3);
    decodeCounts(hex('0000000100000000 ffffffffffffffff 0000000000000002'), 6, counts);
    expect([...counts]).toEqual([SATURATED, SATURATED, 2]);
  });

  test.each([0, 1, 2, 3, 4, 5, 6])(
    'order %i: encoding part of a byte leaves its other counts alone',
    (order) => {
      const whole = new Uint8Array(64).fill(0xff);
      encodeCounts(whole, order, Uint32Array.of(0));
      const counts = new Uint32Array((64 * 8) / 2 ** order);
      decodeCounts(whole, order, counts);
      expect(counts[0]).toBe(0);
      expect(counts.subarray(1).every((count) => count === greatestCount(order))).toBe(true);
    },
  );

  test.each([0, 1, 2, 3, 4, 5, 6])('order %i: every count comes back', (order) => {
    const random = new Random(order);
    const most = Math.min(greatestCount(order), 2 ** 32 - 1);
    const counts = Uint32Array.from({ length: countsPerSector(order) }, () => random.between(0, most));
    const bytes = new Uint8Array(512);
    encodeCounts(bytes, order, counts);
    const back = new Uint32Array(counts.length);
    decodeCounts(bytes, order, back);
    expect(back).toEqual(counts);
  });

  test('how many fit a block and a sector, and how high they go', () => {
    expect([0, 1, 2, 3, 4, 5, 6].map((order) => countsPerSector(order))).toEqual([
      4096, 2048, 1024, 512, 256, 128, 64,
    ]);
    expect(countsPerBlock(512, 6)).toBe(64);
    expect(countsPerBlock(65536, 4)).toBe(32768);
    expect(countsPerBlock(2 << 20, 0)).toBe(16 << 20);
    expect([0, 1, 2, 3, 4, 5, 6].map(greatestCount)).toEqual([1, 3, 15, 255, 65535, 0xffffffff, 0xffffffff]);
  });
});
