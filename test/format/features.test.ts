import { describe, expect, test } from 'vitest';
import { QcowError } from '../../src/errors.js';
import { requireSupported, requireUnmarked } from '../../src/format/features.js';
import { parseExtensions, parseHeader } from '../../src/format/header.js';
import { image } from '../support/image-builder.js';
import { hex, patched } from './bytes.js';

const plain = image({ clusterBits: 12 }).write(0).build();

function refusalOf(bytes: Uint8Array): QcowError | null {
  const cluster0 = bytes.subarray(0, 16384);
  try {
    const header = parseHeader(cluster0);
    requireUnmarked(header);
    requireSupported(header, parseExtensions(cluster0, header), cluster0);
    return null;
  } catch (error) {
    if (error instanceof QcowError) return error;
    throw error;
  }
}

/** Incompatible bits are at 72 to 79, autoclear bits at 88 to 95, both big-endian. */
const incompatible = (bits: string) => patched(plain, 72, bits);
const withBitmaps = image({ clusterBits: 12 }).bitmap('a').build();
const withoutBit = (bytes: Uint8Array) => patched(bytes, 88, '0000000000000000');
const autoclear = (bits: string) => patched(plain, 88, bits);

describe('what is refused', () => {
  test.each([
    ['the dirty bit', incompatible('0000000000000001'), 'CORRUPT', /marked dirty.*qemu-img check -r all/],
    ['the corrupt bit', incompatible('0000000000000002'), 'CORRUPT', /marked corrupt.*qemu-img check -r all/],
    [
      'extended L2 entries in clusters of 4 KiB',
      incompatible('0000000000000010'),
      'CORRUPT',
      /cluster_bits .* 14 or more/,
    ],
    ['the lowest unknown bit', incompatible('0000000000000020'), 'UNSUPPORTED', /feature bit 5,/],
    ['an unknown bit in the upper half', incompatible('0000010000000000'), 'UNSUPPORTED', /feature bit 40,/],
    ['the highest bit', incompatible('8000000000000000'), 'UNSUPPORTED', /feature bit 63,/],
    ['bit 31', incompatible('0000000080000000'), 'UNSUPPORTED', /feature bit 31,/],
    ['a compression bit without its type', incompatible('0000000000000008'), 'CORRUPT', /disagree.*byte 104/],
    ['a compression type without its bit', patched(plain, 104, '01'), 'CORRUPT', /disagree.*byte 104/],
    [
      'an unknown compression type',
      patched(incompatible('0000000000000008'), 104, '02'),
      'UNSUPPORTED',
      /compression type 2/,
    ],
    ['an unknown encryption', patched(plain, 32, '00000003'), 'UNSUPPORTED', /encryption method 3/],
    ['another', patched(plain, 32, 'ffffffff'), 'UNSUPPORTED', /encryption method 4294967295/],
    [
      'bitmaps without the autoclear bit that vouches for them',
      withoutBit(withBitmaps),
      'UNSUPPORTED',
      /bitmaps .* not valid any more.*byte 112.*qemu-img check -r leaks/,
    ],
    [
      'bitmaps in version 2, which has no such bit',
      image({ version: 2 }).extension(0x23852875, new Uint8Array(24)).build(),
      'UNSUPPORTED',
      /bitmaps .* not valid any more.*byte 72/,
    ],
    [
      'a data file name without the feature',
      patched(plain, 112, '44415441 00000003'),
      'UNSUPPORTED',
      /names an external data file/,
    ],
    [
      'the autoclear bit of bitmaps alone',
      autoclear('0000000000000001'),
      'CORRUPT',
      /bitmaps, but names none/,
    ],
    ['a raw data file that is none', autoclear('0000000000000002'), 'CORRUPT', /marked raw/],
    ['another autoclear bit', autoclear('0000000000000004'), 'UNSUPPORTED', /autoclear feature bit 2,/],
    ['an autoclear bit in the upper half', autoclear('0000000100000000'), 'UNSUPPORTED', /feature bit 32,/],
  ])('%s', (_, bytes, code, message) => {
    const refusal = refusalOf(bytes);
    expect(refusal?.code).toBe(code);
    expect(refusal?.message).toMatch(message);
    expect(refusal?.message).not.toContain('\n');
  });

  test.each([
    ['an image without anything special', plain],
    ['lazy refcounts', image({ lazyRefcounts: true }).write(0).build()],
    ['an unknown compatible feature', patched(plain, 80, '8000000000000002')],
    ['zstd, which need not be understood to be moved', patched(incompatible('0000000000000008'), 104, '01')],
    ['unknown extensions', image({ clusterBits: 12 }).extension(0x7e570001, hex('0102')).build()],
    ['a feature name table', image({ clusterBits: 12, featureNames: 8 }).build()],
    ['extended L2 entries', image({ clusterBits: 14, extendedL2: true }).write(0).build()],
    ['an external data file', incompatible('0000000000000004')],
    ['a raw one', patched(incompatible('0000000000000004'), 88, '0000000000000002')],
    [
      'the name of one',
      patched(patched(plain, 72, '0000000000000004'), 112, '44415441 00000003 61616100 00000000'),
    ],
    ['bitmaps', withBitmaps],
    ['LUKS', patched(plain, 32, '00000002')],
    ['legacy AES', patched(plain, 32, '00000001')],
    ['a backing file', image({ clusterBits: 12, backingFile: 'gone.qcow2', backingFormat: 'qcow2' }).build()],
    ['version 2', image({ version: 2 }).write(0).build()],
  ])('not %s', (_, bytes) => {
    expect(refusalOf(bytes)).toBeNull();
  });

  /** A feature name table with one entry of 48 bytes: type, bit, name. */
  function named(type: number, bit: number, name: string): Uint8Array {
    const entry = new Uint8Array(48);
    entry.set([type, bit, ...Buffer.from(name, 'latin1')]);
    const header = hex('6803f857 00000030');
    return patched(plain, 112, Buffer.concat([header, entry]).toString('hex'));
  }

  test('an unknown feature goes by the name that the image has for it', () => {
    const bytes = patched(named(0, 40, 'time travel'), 72, '0000010000000000');
    expect(refusalOf(bytes)?.message).toContain('feature bit 40 ("time travel")');
    const cleared = patched(named(2, 7, 'echo'), 88, '0000000000000080');
    expect(refusalOf(cleared)?.message).toContain('autoclear feature bit 7 ("echo")');
  });

  test('a name of another kind or bit is not taken', () => {
    for (const [type, bit] of [
      [1, 40],
      [0, 41],
    ] as const) {
      const bytes = patched(named(type, bit, 'time travel'), 72, '0000010000000000');
      expect(refusalOf(bytes)?.message).toContain('feature bit 40,');
    }
  });

  test('control characters of a name stay off the terminal', () => {
    const bytes = patched(named(0, 40, '\x1b[31mred\x07\n\xff'), 72, '0000010000000000');
    expect(refusalOf(bytes)?.message).toContain('("?[31mred???")');
  });

  test('a name that fills its entry ends with it', () => {
    const bytes = patched(named(0, 40, 'n'.repeat(46)), 72, '0000010000000000');
    expect(refusalOf(bytes)?.message).toContain(`("${'n'.repeat(46)}")`);
  });
});
