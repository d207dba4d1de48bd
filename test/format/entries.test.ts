import { describe, expect, test } from 'vitest';
import {
  entryOffset,
  l1ReservedBits,
  l2ReservedBits,
  refcountTableReservedBits,
  retargetEntry,
  setCopied,
  subclusterFault,
} from '../../src/format/entries.js';
import { readWord, viewOf, wordOf, writeWord } from '../../src/format/words.js';
import { hex } from './bytes.js';

const halves = (text: string): [number, number] => {
  const view = viewOf(hex(text));
  return [view.getUint32(0), view.getUint32(4)];
};

describe('entries', () => {
  test.each([
    ['80 00000000050000', 0x50000, 'COPIED, a standard cluster'],
    ['00 00000000050001', 0x50000, 'ZERO, with a cluster kept'],
    ['00 00000000000001', 0, 'ZERO, without one'],
    ['80 00000000000000', 0, 'COPIED alone: unallocated'],
    ['80 1ffffffffffe00', 0x1ffffffffffe00, 'the highest offset that a number holds'],
    ['00 fffffffffffe00', 0xfffffffffffe00, 'all 47 bits'],
    ['ff 000000000001ff', 0, 'every bit but the offset'],
  ])('%s: offset 0x%s', (text, offset) => {
    expect(entryOffset(...halves(text))).toBe(offset);
  });

  test.each([
    ['every bit set', 'ffffffffffffffff', 'ff000001000001ff', 0x1_0000_0000],
    ['COPIED', '8000000000050000', '8000000000070000', 0x70000],
    ['ZERO', '0000000000050001', '0000000000070001', 0x70000],
    ['reserved bits', '3f000000000501fe', '3f000000000701fe', 0x70000],
    ['offsets beyond 4 GiB, upwards', '8000000000050000', '8000001200000000', 0x12_0000_0000],
    ['offsets beyond 4 GiB, downwards', '8000001200000000', '8000000000000200', 0x200],
    ['an offset with bit 31', '8000000000050000', '8000000080000000', 0x8000_0000],
    ['the highest offset', '8000000000050000', '801ffffffffffe00', 0x1f_ffff_ffff_fe00],
  ])('a new offset keeps %s', (_, before, after, offset) => {
    const bytes = hex(`aaaaaaaaaaaaaaaa${before}bbbbbbbbbbbbbbbb`);
    retargetEntry(viewOf(bytes), 8, offset);
    expect(bytes).toEqual(hex(`aaaaaaaaaaaaaaaa${after}bbbbbbbbbbbbbbbb`));
  });

  test('every bit but 9 to 55 is kept, one by one', () => {
    for (let bit = 0; bit < 64; bit++) {
      const before = 1n << BigInt(bit);
      const bytes = new Uint8Array(8);
      const view = viewOf(bytes);
      view.setBigUint64(0, before);
      retargetEntry(view, 0, 0x1234_5600);
      const kept = bit >= 9 && bit <= 55 ? 0n : before;
      expect(view.getBigUint64(0)).toBe(kept | 0x1234_5600n);
    }
  });

  test('COPIED is bit 63', () => {
    const bytes = hex('0000000000050001');
    setCopied(viewOf(bytes), 0);
    expect(bytes).toEqual(hex('8000000000050001'));
    setCopied(viewOf(bytes), 0);
    expect(bytes).toEqual(hex('8000000000050001'));
  });

  test('which bits are reserved where', () => {
    const reserved = (check: (hi: number, lo: number) => boolean) =>
      Array.from({ length: 64 }, (_, bit) => bit).filter((bit) =>
        bit < 32 ? check(0, 2 ** bit) : check(2 ** (bit - 32), 0),
      );
    const bits = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);
    expect(reserved(l1ReservedBits)).toEqual([...bits(0, 8), ...bits(56, 62)]);
    expect(reserved((hi, lo) => l2ReservedBits(hi, lo, true))).toEqual([...bits(1, 8), ...bits(56, 61)]);
    expect(reserved((hi, lo) => l2ReservedBits(hi, lo, false))).toEqual([...bits(0, 8), ...bits(56, 61)]);
    expect(reserved(refcountTableReservedBits)).toEqual([...bits(0, 8), ...bits(56, 63)]);
  });
});

describe('the second word of an extended L2 entry', () => {
  const standard = 0x8000_0000;
  const compressed = 0x4000_0000;
  test.each([
    ['nothing allocated', standard, true, 0, 0, null],
    ['every subcluster allocated', standard, true, 0, 0xffff_ffff, null],
    ['all reads as zeroes, without a cluster', 0, false, 0xffff_ffff, 0, null],
    ['some of each', standard, true, 0x8000_0001, 0x7fff_fffe, null],
    ['the highest subcluster both', standard, true, 0x8000_0000, 0x8000_0000, /at the same time/],
    ['the lowest subcluster both', standard, true, 1, 0xffff_ffff, /at the same time/],
    ['allocated in no cluster', 0, false, 0, 1, /without a cluster/],
    ['compressed', compressed, true, 0, 0, null],
    ['compressed, with a bitmap', compressed, true, 0, 1, /compressed/],
    ['compressed, with the other bitmap', compressed, true, 1, 0, /compressed/],
  ])('%s', (_, hi, hasCluster, zero, allocated, fault) => {
    const found = subclusterFault(hi | 0, hasCluster, zero | 0, allocated | 0);
    if (fault === null) expect(found).toBeNull();
    else expect(found).toMatch(fault);
  });
});

describe('words', () => {
  test.each([
    ['0000000000000000', 0],
    ['00000000ffffffff', 0xffffffff],
    ['0000000100000000', 2 ** 32],
    ['001fffffffffffff', 2 ** 53 - 1],
  ])('%s is %i, both ways', (text, value) => {
    expect(readWord(viewOf(hex(text)), 0)).toBe(value);
    const bytes = new Uint8Array(8);
    writeWord(viewOf(bytes), 0, value);
    expect(bytes).toEqual(hex(text));
  });

  test('2^53 and above is no number', () => {
    expect(wordOf(0x200000, 0)).toBeNaN();
    expect(readWord(viewOf(hex('ffffffffffffffff')), 0)).toBeNaN();
  });

  test('a view of a part of a buffer begins where the part begins', () => {
    expect(viewOf(hex('00000001 00000002').subarray(4)).getUint32(0)).toBe(2);
  });
});
