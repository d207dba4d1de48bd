import { describe, expect, test } from 'vitest';
import { QcowError } from '../../src/errors.js';
import { bitmapDirectory, bitmapTableFault, parseBitmapDirectory } from '../../src/format/bitmaps.js';
import { type Header, parseExtensions, parseHeader } from '../../src/format/header.js';
import { image } from '../support/image-builder.js';
import { golden, hex, patched } from './bytes.js';

const EXTENSION = golden(
  ['23852875', 'type'],
  ['00000018', 'length'],
  ['00000002', 'nb_bitmaps'],
  ['00000000', 'reserved'],
  ['0000000000000040', 'bitmap_directory_size'],
  ['0000000000070000', 'bitmap_directory_offset'],
);
/** Extensions begin at 112. */
const plain = image({ clusterBits: 12, virtualSize: 1 << 20 }).build();
const withExtension = (...extensions: Uint8Array[]) =>
  patched(plain, 112, Buffer.concat(extensions).toString('hex'));

function directoryIn(bytes: Uint8Array) {
  const cluster0 = bytes.subarray(0, 4096);
  const header = parseHeader(cluster0);
  return bitmapDirectory(header, parseExtensions(cluster0, header), cluster0);
}

function refusalOf(act: () => unknown): QcowError {
  try {
    act();
  } catch (error) {
    if (error instanceof QcowError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

describe('the bitmaps extension', () => {
  test('says where the directory is, and which field says so', () => {
    expect(directoryIn(withExtension(EXTENSION))).toEqual({
      slot: 112 + 8 + 16,
      offset: 0x70000,
      lengthBytes: 64,
      bitmapCount: 2,
    });
  });

  test('behind a feature name table its fields lie beyond the first sector', () => {
    const built = image({ clusterBits: 12, featureNames: 8 }).bitmap('a').buildWithMap();
    const directory = directoryIn(built.bytes);
    expect(directory?.slot).toBe(528);
    expect(directory?.offset).toBe(built.where('bitmap directory') * 4096);
  });

  test('there need be none', () => {
    expect(directoryIn(plain)).toBeNull();
  });

  test.each([
    ['a second one', withExtension(EXTENSION, EXTENSION), /more than one/],
    [
      'another length',
      withExtension(patched(EXTENSION, 4, '00000020'), hex('0000000000000000')),
      /32 bytes, not 24/,
    ],
    ['no bitmap', withExtension(patched(EXTENSION, 8, '00000000')), /names 0 bitmaps/],
    ['65536 bitmaps', withExtension(patched(EXTENSION, 8, '00010000')), /names 65536 bitmaps/],
    ['a reserved field', withExtension(patched(EXTENSION, 12, '00000001')), /reserved field/],
    ['an empty directory', withExtension(patched(EXTENSION, 16, '0000000000000000')), /impossible length/],
    ['a directory of 64 MiB', withExtension(patched(EXTENSION, 16, '0000000004000000')), /impossible length/],
    [
      'a directory of 2^63 bytes',
      withExtension(patched(EXTENSION, 16, '8000000000000000')),
      /impossible length/,
    ],
    ['a directory at 0', withExtension(patched(EXTENSION, 24, '0000000000000000')), /not at a cluster/],
    [
      'a directory within a cluster',
      withExtension(patched(EXTENSION, 24, '0000000000070200')),
      /not at a cluster/,
    ],
    ['a directory at 2^60', withExtension(patched(EXTENSION, 24, '1000000000000000')), /not at a cluster/],
  ])('with %s is damaged', (_, bytes, message) => {
    const refusal = refusalOf(() => directoryIn(bytes));
    expect(refusal.code).toBe('CORRUPT');
    expect(refusal.message).toMatch(message);
    expect(refusal.where).toBe('header, byte 112');
  });
});

/** The name "né" (three bytes), padded to 32 bytes. */
const FIRST = golden(
  ['0000000000080000', 'bitmap_table_offset'],
  ['00000001', 'bitmap_table_size'],
  ['00000002', 'flags: auto'],
  ['01', 'type: dirty tracking'],
  ['0c', 'granularity_bits: a bit stands for 4 KiB'],
  ['0003', 'name_size'],
  ['00000000', 'extra_data_size'],
  ['6ec3a9', 'name'],
  ['0000000000', 'padding'],
);
/** In use, of a size that the disk has not; eight bytes of name, so that nothing is padding. */
const SECOND = golden(
  ['00000012ab000000', 'bitmap_table_offset'],
  ['00000007', 'bitmap_table_size'],
  ['00000001', 'flags: in use'],
  ['01', 'type'],
  ['09', 'granularity_bits'],
  ['0008', 'name_size'],
  ['00000000', 'extra_data_size'],
  ['6269746d61703031', 'name: bitmap01'],
);
const BOTH = Uint8Array.from([...FIRST, ...SECOND]);

/** Of a disk of 1 MiB: 256 bits of 4 KiB. */
function parsed(bytes: Uint8Array, bitmapCount = 2, header: Partial<Header> = {}) {
  const directory = { slot: 136, offset: 0x70000, lengthBytes: bytes.length, bitmapCount };
  return parseBitmapDirectory(bytes, directory, { ...parseHeader(plain.subarray(0, 512)), ...header });
}

describe('the bitmap directory', () => {
  test('has entries at multiples of 8', () => {
    expect(parsed(BOTH)).toEqual([
      { at: 0, tableOffset: 0x80000, tableEntries: 1, isRecording: true },
      { at: 32, tableOffset: 0x12_ab00_0000, tableEntries: 7, isRecording: false },
    ]);
  });

  test.each([
    ['goes on', BOTH, 1, /goes on after its 1 bitmaps/, 32],
    ['ends too early', BOTH, 3, /has 2 bitmaps, not 3/, 64],
    ['ends within an entry', BOTH.subarray(0, 40), 2, /bitmap 1 reaches beyond/, 32],
    ['ends within a name', BOTH.subarray(0, 56), 2, /bitmap 1 reaches beyond/, 32],
    ['has a name of 65535 bytes', patched(BOTH, 18, 'ffff'), 2, /bitmap 0 reaches beyond/, 0],
    ['has extra data of 4 GiB', patched(BOTH, 20, 'ffffffff'), 2, /bitmap 0 reaches beyond/, 0],
    ['has no name', patched(FIRST.subarray(0, 24), 18, '0000'), 1, /a name of 0 bytes/, 0],
    ['has a name of 1024 bytes', longName(1024), 1, /a name of 1024 bytes/, 0],
    ['has a table at 0', patched(BOTH, 0, '0000000000000000'), 2, /bitmap 0 has a table that is not at/, 0],
    ['has a table within a cluster', patched(BOTH, 0, '0000000000080200'), 2, /a table that is not at/, 0],
    ['has a table at 2^60', patched(BOTH, 32, '1000000000000000'), 2, /bitmap 1 has a table that is not/, 32],
    ['has a table without an entry', patched(BOTH, 40, '00000000'), 2, /a table of 0 entries/, 32],
    ['has a table for more than 512 MiB', patched(BOTH, 40, '00020001'), 2, /a table of 131073 entries/, 32],
    [
      'has a table too long for the disk',
      patched(BOTH, 8, '00000002'),
      2,
      /2 entries, where the disk needs 1/,
      0,
    ],
    ['has bits for 256 bytes each', patched(BOTH, 17, '08'), 2, /2\^8 bytes/, 0],
    ['has bits for 4 GiB each', patched(BOTH, 17, '20'), 2, /2\^32 bytes/, 0],
  ])('that %s is damaged', (_, bytes, count, message, at) => {
    const refusal = refusalOf(() => parsed(bytes, count));
    expect(refusal.code).toBe('CORRUPT');
    expect(refusal.message).toMatch(message);
    expect(refusal.where).toBe(`bitmap directory at 0x70000, byte ${at}`);
  });

  test.each([
    ['extra data', patched(FIRST, 20, '00000004'), /4 bytes of extra data/],
    [
      'extra data, flagged as harmless',
      patched(patched(FIRST, 20, '00000004'), 12, '00000004'),
      /extra data/,
    ],
    ['an unknown flag', patched(FIRST, 12, '80000002'), /the flags 0x80000002/],
    ['another type', patched(FIRST, 16, '02'), /the type 2/],
  ])('with %s is not handled', (_, bytes, message) => {
    const refusal = refusalOf(() => parsed(bytes, 1));
    expect(refusal.code).toBe('UNSUPPORTED');
    expect(refusal.message).toMatch(message);
    expect(refusal.where).toBe('bitmap directory at 0x70000, byte 0');
  });

  /** 4096 bytes of bits, each for 4 KiB, are 128 MiB: QEMU rounds the disk down to sectors, bits and tables up. */
  test.each([
    [128 * 2 ** 20, 1],
    [128 * 2 ** 20 + 511, 1],
    [128 * 2 ** 20 + 512, 2],
    [256 * 2 ** 20, 2],
    [2 ** 40, 8192],
  ])('a disk of %i bytes needs a table of %i entries', (virtualBytes, tableEntries) => {
    const withEntries = (count: number) => patched(FIRST, 8, count.toString(16).padStart(8, '0'));
    expect(parsed(withEntries(tableEntries), 1, { virtualBytes })).toHaveLength(1);
    for (const wrong of [tableEntries - 1, tableEntries + 1]) {
      expect(() => parsed(withEntries(wrong), 1, { virtualBytes })).toThrow(/table of/);
      if (wrong === 0) continue;
      expect(parsed(patched(withEntries(wrong), 12, '00000003'), 1, { virtualBytes })).toHaveLength(1);
    }
  });
});

function longName(length: number): Uint8Array {
  const entry = new Uint8Array(24 + length);
  entry.set(FIRST.subarray(0, 24));
  return patched(entry, 18, length.toString(16).padStart(4, '0'));
}

test('a name of 1023 bytes is the longest', () => {
  const entry = new Uint8Array(24 + 1024);
  entry.set(longName(1023));
  expect(parsed(entry, 1)).toHaveLength(1);
});

test.each([
  ['a cluster', 0x0000_0001, 0x0000_1000, null],
  ['the highest bit of an offset', 0x0080_0000, 0, null],
  ['all zeroes', 0, 0, null],
  ['all ones', 0, 1, null],
  ['all ones and a cluster', 0, 0x1001, /both/],
  ['bit 1', 0, 2, /reserved/],
  ['bit 8 with a cluster', 0, 0x1100, /reserved/],
  ['bit 56', 0x0100_0000, 0, /reserved/],
  ['bit 63, which is COPIED elsewhere', 0x8000_0000, 0x1000, /reserved/],
])('a table entry with %s', (_, hi, lo, fault) => {
  if (fault === null) expect(bitmapTableFault(hi, lo)).toBeNull();
  else expect(bitmapTableFault(hi, lo)).toMatch(fault);
});
