import { describe, expect, test } from 'vitest';
import { type SnapshotTable, parseSnapshotTable } from '../../src/format/snapshots.js';
import { golden, hex, patched } from './bytes.js';

/** An entry with `extra` bytes of extra data, the ID "7" and the name "né" (three bytes), without padding. */
function entry(extraBytes: number, l1Offset = '0000000000070000'): Uint8Array {
  return golden(
    [l1Offset, 'l1_table_offset'],
    ['00000003', 'l1_size'],
    ['0001', 'id_str_size'],
    ['0003', 'name_size'],
    ['65f00000', 'date_sec'],
    ['00000001', 'date_nsec'],
    ['0000000000000002', 'vm_clock_nsec'],
    ['00000000', 'vm_state_size'],
    [extraBytes.toString(16).padStart(8, '0'), 'extra_data_size'],
    ['e7'.repeat(extraBytes), 'extra data: state size, disk size, instruction count, what nobody knows'],
    ['37', 'id: 7'],
    ['6ec3a9', 'name: né'],
  );
}

/** Entries one after the other, all but the last padded to 8 bytes. */
function table(...entries: Uint8Array[]): Uint8Array {
  const parts = entries.map((bytes, i) =>
    i === entries.length - 1 ? bytes : Buffer.concat([bytes, new Uint8Array((8 - (bytes.length % 8)) % 8)]),
  );
  return Uint8Array.from(Buffer.concat(parts));
}

describe('the snapshot table', () => {
  test.each([
    [0, 2],
    [16, 3],
    [24, 3],
    [1024, 3],
    [23, 3],
  ])('an entry with %i bytes of extra data, version %i', (extraBytes, version) => {
    const bytes = entry(extraBytes);
    expect(parseSnapshotTable(bytes, 1, version)).toEqual({
      entries: [{ at: 0, l1Offset: 0x70000, l1Entries: 3 }],
      lengthBytes: 40 + extraBytes + 4,
    });
  });

  test('entries begin at multiples of 8, the last one ends where it ends', () => {
    const bytes = table(entry(16), entry(1024, '0000000000080000'), entry(24, '00000012ab000000'));
    const parsed = parseSnapshotTable(bytes, 3, 3) as SnapshotTable;
    expect(parsed.entries).toEqual([
      { at: 0, l1Offset: 0x70000, l1Entries: 3 },
      { at: 64, l1Offset: 0x80000, l1Entries: 3 },
      { at: 64 + 1072, l1Offset: 0x12_ab00_0000, l1Entries: 3 },
    ]);
    expect(parsed.lengthBytes).toBe(64 + 1072 + 68);
    expect(bytes.length).toBe(parsed.lengthBytes);
    // What follows the table is not part of it.
    const longer = Uint8Array.from([...bytes, ...hex('ffffffffffff')]);
    expect(parseSnapshotTable(longer, 3, 3)).toEqual(parsed);
  });

  test('no snapshots: an empty table', () => {
    expect(parseSnapshotTable(new Uint8Array(0), 0, 3)).toEqual({ entries: [], lengthBytes: 0 });
  });

  test('an offset that no number holds is no number', () => {
    const parsed = parseSnapshotTable(entry(16, 'ffffffffffffffff'), 1, 3) as SnapshotTable;
    expect(parsed.entries[0]!.l1Offset).toBeNaN();
  });

  test.each([
    ['an entry that is cut off in its fixed part', entry(16).subarray(0, 39), 1, 3, /entry 0 lies beyond/],
    ['an entry that is cut off in its name', entry(16).subarray(0, 59), 1, 3, /entry 0 lies beyond/],
    ['fewer entries than the header says', table(entry(16), entry(16)), 3, 3, /entry 2 lies beyond/],
    ['1025 bytes of extra data', entry(1025), 1, 3, /entry 0: 1025 bytes of extra data/],
    ['extra data of 4 GiB', patched(entry(16), 36, 'ffffffff'), 1, 3, /4294967295 bytes/],
    ['a version 3 entry without what version 3 requires', entry(15), 1, 3, /entry 0 is incomplete/],
    [
      'an L1 table of more than 32 MiB',
      patched(entry(16), 8, '00400001'),
      1,
      3,
      /L1 table of 4194305 entries/,
    ],
    ['the second entry being the wrong one', table(entry(16), entry(0)), 2, 3, /entry 1 is incomplete/],
  ])('says what is wrong with %s', (_, bytes, count, version, message) => {
    expect(parseSnapshotTable(bytes, count, version)).toMatch(message);
  });

  test('an L1 table of exactly 32 MiB is right', () => {
    const parsed = parseSnapshotTable(patched(entry(16), 8, '00400000'), 1, 3);
    expect(parsed).toMatchObject({ entries: [{ l1Entries: 4194304 }] });
  });
});
