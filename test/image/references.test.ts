import { describe, expect, test } from 'vitest';
import { Kind } from '../../src/image/host-clusters.js';
import { Flag, l1Tables, slotIsField, visitReferences } from '../../src/image/references.js';
import { readTables } from '../../src/image/table-reader.js';
import { substituteEntries, substituteSnapshots } from '../../src/image/substitute.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { openImage } from '../../src/image/image.js';
import { walk } from '../../src/image/walk.js';
import { image } from '../support/image-builder.js';
import { randomImage } from '../support/random-image.js';
import { type Opened, opened, withWord } from './opened.js';

interface Reference {
  slot: number;
  target: number;
  clusterCount: number;
  kind: Kind;
  paths: number;
  flags: number;
}

async function referencesOf({ image: found, walked }: Opened): Promise<Reference[]> {
  const references: Reference[] = [];
  await visitReferences(found, walked.clusters, {
    reference: (slot, target, clusterCount, kind, paths, flags) =>
      void references.push({ slot, target, clusterCount, kind, paths, flags }),
  });
  return references;
}

describe('the visitor', () => {
  test('tells slot, target, length, kind, paths and flags of everything', async () => {
    const built = image({ clusterBits: 9, l1Size: 70 })
      .writeRange(0, 2)
      .snapshot('a')
      .write(1)
      .buildWithMap();
    const at = (name: string) => built.where(name) * 512;
    const references = await referencesOf(await opened(built.bytes));
    const { active, copied } = Flag;
    const [table, block, snapshots] = ['refcount table', 'refcount block 0', 'snapshot table'].map(at);
    const [l1, l1OfA, l2, l2OfA] = ['L1', 'L1 of 1', 'L2 active:0', 'L2 1:0'].map(at);
    const entries = [
      { slot: l2, target: at('data active:0'), clusterCount: 1, kind: Kind.data, paths: 1, flags: active },
      {
        slot: l2! + 8,
        target: at('data active:1'),
        clusterCount: 1,
        kind: Kind.data,
        paths: 1,
        flags: active | copied,
      },
      { slot: l2OfA, target: at('data active:0'), clusterCount: 1, kind: Kind.data, paths: 1, flags: 0 },
      { slot: l2OfA! + 8, target: at('data 1:1'), clusterCount: 1, kind: Kind.data, paths: 1, flags: 0 },
    ];
    expect(references).toEqual([
      { slot: 48, target: table, clusterCount: 1, kind: Kind.refcountTable, paths: 1, flags: 0 },
      { slot: table, target: block, clusterCount: 1, kind: Kind.refcountBlock, paths: 1, flags: 0 },
      { slot: 64, target: snapshots, clusterCount: 1, kind: Kind.snapshotTable, paths: 1, flags: 0 },
      { slot: 40, target: l1, clusterCount: 2, kind: Kind.l1Table, paths: 1, flags: 0 },
      { slot: snapshots, target: l1OfA, clusterCount: 2, kind: Kind.l1Table, paths: 1, flags: 0 },
      { slot: l1, target: l2, clusterCount: 1, kind: Kind.l2Table, paths: 1, flags: active | copied },
      { slot: l1OfA, target: l2OfA, clusterCount: 1, kind: Kind.l2Table, paths: 1, flags: 0 },
      // In host order.
      ...entries.sort((a, b) => a.slot! - b.slot!),
    ]);
  });

  test('in random images: each slot once, it holds its target, and paths add up to the references', async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 150, compressed: false });
      const found = await opened(bytes);
      const { clusterBytes } = found.image.header;
      const references = await referencesOf(found);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      expect(new Set(references.map(({ slot }) => slot)).size, description).toBe(references.length);
      const paths = new Map<number, number>([[0, 1]]);
      for (const { slot, target, clusterCount, kind, paths: count } of references) {
        // A file may end within its last cluster, but not within what is in use of a table.
        const word = view.getBigUint64(slot);
        expect(Number(slotIsField(kind) ? word : word & 0xfffffffffffe00n), description).toBe(target);
        for (let i = 0; i < clusterCount; i++) {
          const cluster = target / clusterBytes + i;
          paths.set(cluster, (paths.get(cluster) ?? 0) + count);
        }
      }
      for (let cluster = 0; cluster < found.walked.clusters.count; cluster++) {
        expect(found.walked.clusters.refs[cluster], description).toBe(paths.get(cluster) ?? 0);
      }
    }
  });

  test('an L1 entry of flags alone is damage, as for QEMU, and no reference', async () => {
    const built = image({ clusterBits: 9 }).write(0).buildWithMap();
    const bytes = withWord(built.bytes, built.where('L1') * 512 + 8, () => 1n << 63n);
    const found = await opened(bytes);
    expect(found.walked.findings.words).toEqual([
      expect.stringContaining('an L1 entry has flags but no offset'),
    ]);
    expect((await referencesOf(found)).filter(({ kind }) => kind === Kind.l2Table)).toHaveLength(1);
  });

  test('what follows the entries in the last cluster of an L1 table is not interpreted', async () => {
    const built = image({ clusterBits: 9, l1Size: 5 }).write(0).buildWithMap();
    const bytes = withWord(built.bytes, built.where('L1') * 512 + 5 * 8, () => (1n << 63n) | 0x400n);
    const found = await opened(bytes);
    expect(found.walked.findings).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  test('an L1 table of no entries is no reference, in the header and in a snapshot', async () => {
    const built = image({ clusterBits: 9, virtualSize: 0, l1Size: 0 }).snapshot('a').buildWithMap();
    const found = await opened(built.bytes);
    expect(l1Tables(found.image)).toEqual([]);
    expect(found.walked.findings.corruptions).toBe(0);
  });

  test('L1 tables of more than 1 MiB are read in pieces', async () => {
    // 512-byte clusters: 140000 entries take 1.07 MiB.
    const built = image({ clusterBits: 9, l1Size: 140_000 })
      .write(0)
      .write(64 * 135_000)
      .buildWithMap();
    const found = await opened(built.bytes);
    const tables = (await referencesOf(found)).filter(({ kind }) => kind === Kind.l2Table);
    expect(tables.map(({ slot }) => (slot - built.where('L1') * 512) / 8)).toEqual([0, 135_000]);
  });
});

describe('reading tables', () => {
  test('neighbours in one read, each cluster once with its own bytes', async () => {
    const bytes = new Uint8Array(64 * 512);
    for (let cluster = 0; cluster < 64; cluster++) bytes.fill(cluster, cluster * 512, (cluster + 1) * 512);
    const recorder = new RecordingDevice(new MemoryDevice(bytes));
    const wanted = [1, 2, 3, 7, 20, 21, 22, 23, 24, 26, 28, 30, 32, 34, 36, 38, 40, 63];
    const seen: number[] = [];
    await readTables(recorder, 512, wanted, (cluster, content) => {
      expect(content).toHaveLength(512);
      expect(content.every((byte) => byte === cluster)).toBe(true);
      seen.push(cluster);
    });
    expect(seen).toEqual(wanted);
    expect(recorder.reads).toBe(12);
    expect(recorder.bytesRead).toBe(wanted.length * 512);
  });

  test('2 MiB clusters', async () => {
    const recorder = new RecordingDevice(new MemoryDevice(new Uint8Array(6 << 20).fill(9)));
    const seen: number[] = [];
    await readTables(recorder, 2 << 20, [0, 1, 2], (cluster) => void seen.push(cluster));
    expect(seen).toEqual([0, 1, 2]);
  });
});

describe('tables in holes of the file', () => {
  const MIB = 1 << 20;

  /** `bytes` at the start of a file of 40 MiB that holds nothing else. */
  async function sparse(bytes: Uint8Array): Promise<RecordingDevice> {
    const memory = new MemoryDevice(bytes);
    await memory.truncate(40 * MIB);
    return new RecordingDevice(memory);
  }

  test('beyond the first 16 MiB of them, tables are read only where the host has data', async () => {
    const recorder = await sparse(new Uint8Array(0));
    await recorder.write(Uint8Array.of(1), 30 * MIB);
    const wanted = Array.from({ length: 640 }, (_, i) => i);
    const seen: number[] = [];
    await readTables(recorder, 65536, wanted, (cluster, [first]) => {
      if (first !== 0) seen.push(cluster);
    });
    expect(seen).toEqual([480]);
    // What was in flight when the limit was reached comes on top.
    expect(recorder.bytesRead).toBeLessThanOrEqual((16 + 4 + 1) * MIB);
  });

  test('an ordinary file: its host is not asked', async () => {
    const recorder = new RecordingDevice(new MemoryDevice(new Uint8Array(40 * MIB).fill(1)));
    recorder.dataExtent = () => expect.unreachable();
    let seen = 0;
    const wanted = Array.from({ length: 640 }, (_, i) => i);
    await readTables(recorder, 65536, wanted, () => void seen++);
    expect(seen).toBe(640);
  });

  test('L2 tables: a walk does not read 39 MiB of them', async () => {
    const built = image({ clusterBits: 16, l1Size: 640 }).write(0).buildWithMap();
    const recorder = await sparse(built.bytes);
    const entry = new Uint8Array(8);
    for (let index = 1; index < 600; index++) {
      new DataView(entry.buffer).setBigUint64(0, (1n << 63n) | BigInt((30 + index) * 65536));
      await recorder.write(entry, built.where('L1') * 65536 + index * 8);
    }
    const found = await openImage(recorder);
    const { clusters } = await walk(found);
    expect(clusters.kind(30 + 599)).toBe(Kind.l2Table);
    expect(recorder.bytesRead).toBeLessThan(22 * MIB);
  });

  test('L1 tables: a walk does not read 32 MiB of one', async () => {
    const built = image({ clusterBits: 16 }).write(0).snapshot('a').buildWithMap();
    const recorder = await sparse(built.bytes);
    const snapshot = new Uint8Array(12);
    new DataView(snapshot.buffer).setBigUint64(0, BigInt(30 * 65536));
    new DataView(snapshot.buffer).setUint32(8, (32 * MIB) / 8);
    await recorder.write(snapshot, built.where('snapshot table') * 65536);
    const found = await openImage(recorder);
    const { clusters } = await walk(found);
    expect(clusters.kind(30 + 511)).toBe(Kind.l1Table);
    expect(recorder.bytesRead).toBeLessThan(20 * MIB);
  });
});

describe('substituting', () => {
  const relocation = {
    destinationOf: (cluster: number) => (cluster === 5 ? 3 : cluster === 6 ? 0x80_0000 : -1),
    flagged: (cluster: number) => cluster === 6,
  };

  test('entries name the new places of what moves; all else stays, compressed entries too', () => {
    const words = [
      [0x8000000000000a00n, 0x8000000000000600n],
      [0x0000000000000c01n, 0x8000000100000001n],
      [0x0000000000000e00n, 0x0000000000000e00n],
      [0x4000000000000a00n, 0x4000000000000a00n],
      [0x0000000000000001n, 0x0000000000000001n],
      [0x3f00000000000bffn, 0x3f000000000007ffn],
    ] as const;
    const bytes = new Uint8Array(words.length * 8 + 3).fill(0xdd);
    const view = new DataView(bytes.buffer);
    for (const [i, [before]] of words.entries()) view.setBigUint64(i * 8, before);
    substituteEntries(bytes, 512, relocation);
    expect(words.map((_, i) => view.getBigUint64(i * 8).toString(16))).toEqual(
      words.map(([, after]) => after.toString(16)),
    );
    expect(bytes.subarray(-3)).toEqual(Uint8Array.of(0xdd, 0xdd, 0xdd));
  });

  test('snapshots: the first eight bytes of an entry whose L1 table moves, nothing else', () => {
    const bytes = new Uint8Array(160).fill(0xdd);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, 5n * 512n);
    view.setBigUint64(56, 5n * 512n);
    view.setBigUint64(112, 9n * 512n);
    const expected = bytes.slice();
    new DataView(expected.buffer).setBigUint64(0, 3n * 512n);
    const entries = [
      { at: 0, l1Offset: 5 * 512, l1Entries: 4 },
      { at: 56, l1Offset: 5 * 512, l1Entries: 0 },
      { at: 112, l1Offset: 9 * 512, l1Entries: 4 },
    ];
    substituteSnapshots(bytes, entries, 512, relocation);
    expect(bytes).toEqual(expected);
  });
});
