import { describe, expect, test } from 'vitest';
import { EXTENSION, extendedL2, parseExtensions, parseHeader } from '../../src/format/header.js';
import { golden, hex, patched } from './bytes.js';

/** 72 bytes that both versions share, up to the version. */
const V2 = golden(
  ['514649fb', 'magic: QFI and 0xfb'],
  ['00000002', 'version'],
  ['0000000000000000', 'backing_file_offset: none'],
  ['00000000', 'backing_file_size'],
  ['00000010', 'cluster_bits: 64 KiB'],
  ['0000000140000000', 'size: 5 GiB'],
  ['00000000', 'crypt_method: none'],
  ['0000000a', 'l1_size: ten tables of 512 MiB each'],
  ['0000000000030000', 'l1_table_offset'],
  ['0000000000010000', 'refcount_table_offset'],
  ['00000001', 'refcount_table_clusters'],
  ['00000002', 'nb_snapshots'],
  ['0000000000050000', 'snapshots_offset'],
);

const V3 = golden(
  [Buffer.from(patched(V2, 4, '00000003')).toString('hex'), 'as version 2'],
  ['0000000000000000', 'incompatible_features'],
  ['0000000000000001', 'compatible_features: lazy refcounts'],
  ['0000000000000000', 'autoclear_features'],
  ['00000003', 'refcount_order: 8 bits'],
  ['00000070', 'header_length: 112'],
  ['00', 'compression_type: zlib'],
  ['00000000000000', 'padding'],
);

const SHARED = {
  clusterBits: 16,
  clusterBytes: 65536,
  virtualBytes: 5 * 2 ** 30,
  encryption: 0,
  l1Entries: 10,
  l1Offset: 0x30000,
  refcountTableOffset: 0x10000,
  refcountTableClusters: 1,
  snapshotCount: 2,
  snapshotsOffset: 0x50000,
  backingFileOffset: 0,
  backingFileBytes: 0,
  incompatible: [0, 0],
  autoclear: [0, 0],
  compressionType: 0,
};

describe('the header', () => {
  test('version 2: 72 bytes, 16-bit refcounts, whatever follows', () => {
    // Extensions begin at byte 72: they must not be taken for feature bits (hazard 1.1).
    for (const tail of ['', 'ff'.repeat(100)]) {
      const bytes = hex(Buffer.from(V2).toString('hex') + tail);
      expect(parseHeader(bytes)).toEqual({ ...SHARED, version: 2, refcountOrder: 4, headerBytes: 72 });
    }
  });

  test('version 3: 112 bytes', () => {
    expect(parseHeader(V3)).toEqual({ ...SHARED, version: 3, refcountOrder: 3, headerBytes: 112 });
  });

  test('version 3 with 104 bytes: byte 104 is no compression type but the first extension', () => {
    const bytes = patched(patched(V3, 100, '00000068'), 104, '6803f857');
    expect(parseHeader(bytes)).toMatchObject({ headerBytes: 104, compressionType: 0 });
    expect(parseHeader(bytes.subarray(0, 104))).toMatchObject({ headerBytes: 104 });
  });

  test('all feature bits, as two halves', () => {
    const bytes = patched(patched(V3, 72, '8000000000000005'), 88, '0102030405060708');
    const header = parseHeader(bytes);
    expect(header.incompatible).toEqual([0x80000000, 5]);
    expect(header.autoclear).toEqual([0x01020304, 0x05060708]);
    expect(extendedL2(header)).toBe(false);
    // Their L2 tables hold half as many entries, so the same disk needs twice the L1 entries.
    const extended = patched(V3, 79, '10');
    expect(() => parseHeader(extended)).toThrow(/the virtual size needs 20 entries/);
    expect(extendedL2(parseHeader(patched(extended, 36, '00000014')))).toBe(true);
  });

  test('a backing file name in cluster 0', () => {
    const bytes = patched(patched(V3, 8, '00000000000001f8'), 16, '000003ff');
    expect(parseHeader(bytes)).toMatchObject({ backingFileOffset: 504, backingFileBytes: 1023 });
  });

  test('stale fields without a meaning are not looked at', () => {
    const noSnapshots = patched(patched(V3, 60, '00000000'), 64, 'ffffffffffffffff');
    expect(parseHeader(noSnapshots).snapshotCount).toBe(0);
    const noBacking = patched(V3, 16, 'ffffffff');
    expect(parseHeader(noBacking).backingFileBytes).toBe(0xffffffff);
    const noL1 = patched(
      patched(patched(V3, 24, '0000000000000000'), 36, '00000000'),
      40,
      '0000000000000123',
    );
    expect(parseHeader(noL1).l1Entries).toBe(0);
  });

  test.each([9, 12, 16, 21])('cluster_bits %i', (bits) => {
    const bytes = patched(V3, 20, `000000${bits.toString(16).padStart(2, '0')}`);
    // An L1 table that is large enough for every cluster size, and one cluster of refcount table.
    const large = patched(patched(bytes, 24, '0000000000000200'), 40, '0000000000200000');
    const placed = patched(patched(large, 48, '0000000000400000'), 64, '0000000000600000');
    const header = parseHeader(patched(placed, 100, '00000068'));
    expect(header.clusterBytes).toBe(2 ** bits);
  });

  test.each([0, 1, 2, 3, 4, 5, 6])('refcount_order %i', (order) => {
    expect(parseHeader(patched(V3, 99, `0${order}`)).refcountOrder).toBe(order);
  });

  test.each([
    ['nothing at all', '', 'NOT_QCOW2', /magic/],
    ['three bytes', '514649', 'NOT_QCOW2', /magic/],
    ['another magic', '7f454c46', 'NOT_QCOW2', /magic/],
    ['the magic alone', '514649fb', 'UNSUPPORTED', /version 0/],
    ['version 1', '514649fb00000001', 'NOT_QCOW2', /version 1 qcow image/],
    ['version 4', '514649fb00000004', 'UNSUPPORTED', /version 4/],
    [
      'a version 2 header that is cut off',
      Buffer.from(V2.subarray(0, 71)).toString('hex'),
      'CORRUPT',
      /truncated/,
    ],
    [
      'a version 3 header that is cut off',
      Buffer.from(V3.subarray(0, 103)).toString('hex'),
      'CORRUPT',
      /truncated/,
    ],
  ])('refuses %s', (_, bytes, code, message) => {
    const parse = () => parseHeader(hex(bytes));
    expect(parse).toThrow(message);
    expect(parse).toThrow(expect.objectContaining({ code }) as Error);
  });

  test.each([
    ['cluster_bits of 8', 20, '00000008', /cluster_bits is out of bounds: 8/],
    ['cluster_bits of 22', 20, '00000016', /cluster_bits is out of bounds: 22/],
    ['cluster_bits that a shift would wrap', 20, '00000028', /cluster_bits is out of bounds: 40/],
    ['a size of 2^53', 24, '0020000000000000', /the virtual size needs 16777216 entries/],
    [
      'more virtual size than the L1 table reaches',
      24,
      '0000000140000001',
      /the virtual size needs 11 entries/,
    ],
    ['an L1 table of more than 32 MiB', 36, '00400001', /l1_size/],
    ['an unaligned L1 table', 40, '0000000000030200', /l1_table_offset.*0x30200/],
    ['an L1 table at 2^56', 40, '0100000000000000', /l1_table_offset.*2\^53 or more/],
    ['an unaligned refcount table', 48, '0000000000010008', /refcount_table_offset/],
    ['a refcount table over the header', 48, '0000000000000000', /overlaps the header/],
    ['a refcount table of no clusters', 56, '00000000', /refcount_table_clusters/],
    ['a refcount table of more than 8 MiB', 56, '00000081', /refcount_table_clusters/],
    ['65537 snapshots', 60, '00010001', /nb_snapshots/],
    ['an unaligned snapshot table', 64, '0000000000050001', /snapshots_offset/],
    ['refcounts of 128 bits', 96, '00000007', /refcount_order/],
    ['a header of 96 bytes', 100, '00000060', /header_length/],
    ['a header length that is no multiple of 8', 100, '00000069', /header_length/],
    ['a header of more than a cluster', 100, '00010008', /header_length/],
    ['a backing file name outside cluster 0', 8, '0000000000010001', /backing_file_offset/],
    ['a backing file name of 1024 bytes', 8, '000000000000010000000400', /backing_file_size/],
    ['a backing file name over the end of cluster 0', 8, '000000000000ff0000000101', /at most 256/],
  ])('refuses %s', (_, at, field, message) => {
    expect(() => parseHeader(patched(V3, at, field))).toThrow(message);
  });
});

describe('header extensions', () => {
  /** Cluster 0 of 512 bytes with `area` where the extensions begin. */
  function cluster0(
    area: Uint8Array,
    backingFileOffset = 0,
  ): { bytes: Uint8Array; header: ReturnType<typeof parseHeader> } {
    let bytes = new Uint8Array(512);
    bytes.set(V3);
    bytes = patched(bytes, 20, '00000009') as typeof bytes;
    bytes = patched(bytes, 24, '0000000000000200') as typeof bytes;
    if (backingFileOffset > 0) {
      bytes = patched(bytes, 8, backingFileOffset.toString(16).padStart(16, '0')) as typeof bytes;
      bytes = patched(bytes, 16, '00000004') as typeof bytes;
    }
    bytes.set(area, 112);
    return { bytes, header: parseHeader(bytes) };
  }

  test('known and unknown ones, padded to 8 bytes, up to the end marker', () => {
    const { bytes, header } = cluster0(
      golden(
        ['e2792aca', 'backing format'],
        ['00000005', 'length'],
        ['7163 6f77 32', 'qcow2'],
        ['000000', 'padding'],
        ['7e570001', 'a type that nobody knows'],
        ['00000000', 'without data'],
        ['7e570002', 'another'],
        ['00000008', 'length'],
        ['0123456789abcdef', 'data'],
        ['00000000', 'end of the area'],
        ['00000000', 'length'],
        ['23852875', 'behind the end: no extension'],
        ['00000018', 'length'],
      ),
    );
    expect(parseExtensions(bytes, header)).toEqual([
      { type: EXTENSION.backingFormat, dataAt: 120, dataBytes: 5 },
      { type: 0x7e570001, dataAt: 136, dataBytes: 0 },
      { type: 0x7e570002, dataAt: 144, dataBytes: 8 },
    ]);
  });

  test('version 2: they begin at byte 72', () => {
    const bytes = new Uint8Array(65536);
    bytes.set(V2);
    const area = golden(['e2792aca', 'backing format'], ['00000003', 'length'], ['726177', 'raw']);
    bytes.set(area, 72);
    expect(parseExtensions(bytes, parseHeader(bytes))).toEqual([
      { type: EXTENSION.backingFormat, dataAt: 80, dataBytes: 3 },
    ]);
  });

  test('no end marker: an area that is exactly full', () => {
    // 512 - 112 bytes: one extension of 392 bytes of data.
    const area = new Uint8Array(400).fill(0x55);
    area.set(golden(['7e570001', 'type'], ['00000188', 'length']));
    const { bytes, header } = cluster0(area);
    expect(parseExtensions(bytes, header)).toEqual([{ type: 0x7e570001, dataAt: 120, dataBytes: 392 }]);
  });

  test('less than 8 bytes before the end are no extension', () => {
    const area = new Uint8Array(400).fill(0x55);
    area.set(golden(['7e570001', 'type'], ['0000017d', 'length: the padding reaches to byte 504']));
    const { bytes, header } = cluster0(area);
    expect(parseExtensions(bytes.subarray(0, 510), header)).toHaveLength(1);
  });

  test('the backing file name ends the area', () => {
    const area = golden(
      ['7e570001', 'type'],
      ['00000004', 'length'],
      ['01020304 00000000', 'data and padding'],
      ['62617365', 'base: the name, not an extension'],
      ['ffffffff', 'what a length would be'],
    );
    const { bytes, header } = cluster0(area, 128);
    expect(parseExtensions(bytes, header)).toEqual([{ type: 0x7e570001, dataAt: 120, dataBytes: 4 }]);
  });

  test.each([
    ['into the backing file name', 128, '00000009'],
    ['beyond the cluster', 0, '00000189'],
    ['beyond everything', 0, 'ffffffff'],
  ])('refuses one that reaches %s', (_, backingFileOffset, length) => {
    const { bytes, header } = cluster0(hex(`7e570001${length}`), backingFileOffset);
    expect(() => parseExtensions(bytes, header)).toThrow(
      /header extension 0x7e570001 is larger.*header, byte 112/,
    );
  });
});
