/** Small images, one for each kind of structure that a crash may strike while it is changed. */
import type { EraseOptions } from '../../src/compactor/types.js';
import { type ImageBuilder, type ImageOptions, image } from '../support/image-builder.js';
import { readLayout, readOffset, type ImageLayout } from '../support/oracle-layout.js';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import type { Options } from './recorded-run.js';

export interface Kind {
  name: string;
  image: ImageBuilder;
  options?: Options;
  /** Bytes that the host has left; default plenty. */
  freeBytes?: number;
  /** Erases only, with these options, instead of compacting. */
  erase?: EraseOptions;
  /** That the run did what the kind is here for. */
  happened: (before: Uint8Array, after: Uint8Array) => boolean;
}

/** 64 KiB of disk in clusters of 512 bytes: two L2 tables. */
function small(options: ImageOptions = {}): ImageBuilder {
  return image({ virtualSize: 64 << 10, seed: 7, ...options });
}

/** Guest writes, a snapshot whose tables the active layer shares in part, and writes after it. */
function shared(options: ImageOptions = {}): ImageBuilder {
  return small(options).writeRange(0, 12).writeRange(64, 8).snapshot('a').writeRange(2, 4);
}

export function layoutOf(bytes: Uint8Array): ImageLayout {
  const layout = readLayout(bytes);
  if (typeof layout === 'string') throw new Error(layout);
  return layout;
}

/** Entries of the refcount table: the host offset of each block, 0 where there is none. */
export function refcountTable(bytes: Uint8Array): number[] {
  const { view, refcountTableOffset, refcountTableClusters, clusterSize } = layoutOf(bytes);
  const length = (refcountTableClusters * clusterSize) / 8;
  return Array.from({ length }, (_, index) => readOffset(view, refcountTableOffset + index * 8));
}

const shorter: Kind['happened'] = (before, after) => after.length < before.length;
const changed =
  (field: (layout: ImageLayout) => number): Kind['happened'] =>
  (before, after) =>
    field(layoutOf(before)) !== field(layoutOf(after));
const leaksGone: Kind['happened'] = (before, after) =>
  inspect(before).leaks > 0 && inspect(after).leaks === 0;
const both =
  (one: Kind['happened'], other: Kind['happened']): Kind['happened'] =>
  (before, after) =>
    one(before, after) && other(before, after);

/** LUKS with a key that the runs are given. */
const UNLOCKABLE: ImageOptions = { encryption: 2, unlockable: true };
const nothingUnused: Kind['happened'] = (_, after) =>
  inspect(after).liveClusters === inspect(after).clusterCount;

/** Puts the units whose names match at the end of the file, behind all junk. */
function last(builder: ImageBuilder, names: RegExp): ImageBuilder {
  return builder.layout({
    arrange: (units) => [
      ...units.filter(({ name }) => !names.test(name)),
      ...units.filter(({ name }) => names.test(name)),
    ],
  });
}

/** Puts the units whose names match right behind the header. */
function first(builder: ImageBuilder, names: RegExp): ImageBuilder {
  return builder.layout({
    arrange: (units) => [
      ...units.filter(({ name }) => names.test(name)),
      ...units.filter(({ name }) => !names.test(name)),
    ],
  });
}

/** A directory of three clusters; one of the tables has three too, with bits for its first entry and its last. */
function bitmapped(builder: ImageBuilder): ImageBuilder {
  return builder
    .bitmap('a'.repeat(500), { granularityBits: 9 })
    .bitmap('b', {
      inUse: true,
      tableEntries: 129,
      entries: ['bits', 'ones', ...Array<'zeroes'>(126).fill('zeroes')],
    })
    .bitmap('c'.repeat(600), { auto: false, entries: ['ones'] });
}

/** The directory and the table of the first bitmap. */
const bitmapsMoved: Kind['happened'] = (before, after) => {
  const [[from, table], [to, movedTable]] = [placesOfBitmaps(before), placesOfBitmaps(after)];
  return from !== to && table !== movedTable;
};

function placesOfBitmaps(bytes: Uint8Array): [directory: number, firstTable: number] {
  const { directoryOffset, bitmaps } = layoutOf(bytes).bitmaps!;
  return [directoryOffset, bitmaps[0]!.tableOffset];
}

export const KINDS: Kind[] = [
  {
    name: 'version 2',
    image: shared({ version: 2 }).discard(3).layout({ shuffle: true, junk: 20 }),
    options: { roundBytes: 4096 },
    happened: shorter,
  },
  {
    name: '1-bit refcounts',
    image: small({ refcountOrder: 0 }).writeRange(0, 30).layout({ shuffle: true, junk: 15, leaks: 9 }),
    options: { roundBytes: 2048 },
    happened: both(shorter, leaksGone),
  },
  {
    name: '2-bit refcounts, shared tables',
    image: shared({ refcountOrder: 1 }).snapshot('b').write(70).layout({ shuffle: true, junk: 25, leaks: 4 }),
    options: { roundBytes: 2048 },
    happened: both(shorter, leaksGone),
  },
  {
    name: '64-bit refcounts: a refcount block is created',
    image: first(
      small({ refcountOrder: 6 }).writeRange(0, 110).layout({ sparseRefcountTable: true, gap: 200 }),
      /junk|gap/,
    ),
    options: { roundBytes: 16384 },
    happened: (before, after) => refcountTable(before)[1] === 0 && refcountTable(after)[1] !== 0,
  },
  {
    name: '64-bit refcounts: refcount blocks are released',
    image: shared({ refcountOrder: 6 }).layout({ shuffle: true, gap: 150, junkAtEnd: 90, leaksAtEnd: 3 }),
    options: { roundBytes: 4096 },
    happened: (before, after) =>
      refcountTable(before).filter((at) => at > 0).length >
      refcountTable(after).filter((at) => at > 0).length,
  },
  {
    name: 'the refcount table shrinks',
    image: shared({ refcountOrder: 6 }).layout({
      shuffle: true,
      junk: 90,
      extraRefcountTableClusters: 3,
      blocksPastEnd: 2,
      staleCounts: 4,
    }),
    options: { roundBytes: 8192 },
    happened: changed(({ refcountTableClusters }) => refcountTableClusters),
  },
  {
    name: 'the refcount table and its blocks move',
    image: last(shared({ refcountOrder: 5 }).layout({ junk: 40 }), /refcount/),
    options: { roundBytes: 4096 },
    happened: changed(({ refcountTableOffset }) => refcountTableOffset),
  },
  {
    name: 'one cluster a round',
    image: shared().layout({ shuffle: true, junk: 30, leaks: 5 }),
    options: { roundBytes: 512 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'one move a plan',
    image: shared({ refcountOrder: 2 }).layout({ shuffle: true, junk: 30, overcounted: 5 }),
    options: { maxMoves: 1 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'L1 tables of several clusters',
    image: last(shared({ l1Size: 150 }).snapshot('b').write(9).layout({ junk: 12, gap: 4 }), /L1/),
    options: { roundBytes: 4096 },
    happened: changed(({ l1Offset }) => l1Offset),
  },
  {
    name: 'a snapshot table of several clusters',
    image: last(
      shared()
        .snapshot('b', { extraSize: 1024, vmStateClusters: 2 })
        .write(0)
        .snapshot('c', { extraSize: 700 })
        .layout({ junk: 14 }),
      /snapshot table/,
    ),
    options: { roundBytes: 2048 },
    happened: both(
      changed(({ snapshotsOffset }) => snapshotsOffset),
      (before) => layoutOf(before).snapshotsLength > 1024,
    ),
  },
  {
    name: 'all tables of several clusters, scattered',
    image: shared({ l1Size: 100, refcountOrder: 6 })
      .snapshot('b', { extraSize: 1024 })
      .write(20)
      .layout({ shuffle: true, junk: 40, extraRefcountTableClusters: 1, leaks: 6, strayCopied: true }),
    options: { roundBytes: 1024 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'L2 tables shared by three layers',
    image: small()
      .writeRange(0, 10)
      .snapshot('a')
      .snapshot('b')
      .writeRange(64, 5)
      .snapshot('c')
      .layout({ shuffle: true, junk: 30 }),
    options: { roundBytes: 1024 },
    happened: shorter,
  },
  {
    name: 'leaks that need the COPIED flag',
    image: small()
      .writeRange(0, 20)
      .snapshot('a')
      .writeRange(0, 3)
      .deleteSnapshot('a', { interrupted: true })
      .layout({ shuffle: true, junk: 20 }),
    options: { roundBytes: 2048 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'leaks that need the COPIED flag, and nothing else to do',
    image: small().writeRange(0, 20).snapshot('a').deleteSnapshot('a', { interrupted: true }),
    options: { roundBytes: 2048 },
    happened: leaksGone,
  },
  {
    name: 'leaks that need the COPIED flag, and a host with room for four clusters',
    image: small()
      .writeRange(0, 24)
      .snapshot('a')
      .deleteSnapshot('a', { interrupted: true })
      .layout({ shuffle: true, junk: 12, zeroJunk: true }),
    freeBytes: 4096,
    happened: both(shorter, leaksGone),
  },
  {
    name: 'leaks that need the COPIED flag, in a full range: the next one gets a refcount block for a while',
    image: small({ refcountOrder: 6 }).writeRange(0, 59).layout({ overcounted: 12 }),
    options: { roundBytes: 2048 },
    happened: both(leaksGone, (before, after) => before.length === 64 * 512 && after.length === 64 * 512),
  },
  {
    name: 'a move that an earlier crash left half done',
    image: halfMoved().layout({ shuffle: true, junk: 20 }),
    options: { roundBytes: 2048 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'a last cluster that is there in part',
    image: last(shared().layout({ junk: 25, partialTail: true, zeroJunk: true }), /^data active/),
    options: { roundBytes: 4096 },
    happened: both(shorter, (before) => before.length % 512 !== 0),
  },
  {
    name: 'zero clusters and machine state, clusters of 1 KiB',
    image: image({ clusterBits: 10, virtualSize: 100_352, seed: 3, refcountOrder: 3 })
      .writeRange(0, 9)
      .zero(2, { allocated: true })
      .zero(4)
      .snapshot('a', { vmStateClusters: 3 })
      .write(2)
      .write(4)
      .layout({ shuffle: true, junk: 20, garbageTails: true, overcounted: 3 }),
    options: { roundBytes: 4096 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'clusters of 4 KiB, two slots for one cluster',
    image: image({ clusterBits: 12, virtualSize: 3 << 20, seed: 5 })
      .writeRange(0, 6)
      .alias(1, 600)
      .snapshot('a')
      .write(0)
      .layout({ shuffle: true, junk: 9 }),
    options: { roundBytes: 8192 },
    happened: shorter,
  },
  {
    name: 'clusters of 64 KiB',
    image: image({ clusterBits: 16, virtualSize: 1 << 20, seed: 5 })
      .writeRange(0, 3)
      .snapshot('a')
      .write(0)
      .layout({ shuffle: true, junk: 3 }),
    options: { roundBytes: 65536 },
    happened: shorter,
  },
  {
    name: 'extended L2 entries, and bitmaps that look like offsets',
    image: last(
      [...Array(9).keys()]
        .reduce(
          // Of each cluster at the end of the file, which moves together with its table.
          (builder, at) => builder.writeSubclusters(at, { zero: 0, allocated: (at + 19) << 14 }),
          image({ clusterBits: 14, extendedL2: true, virtualSize: 17 << 20, seed: 5 }),
        )
        .writeSubclusters(9, { zero: 0x8000_0000, allocated: 0x2_0000 })
        .writeSubclusters(10, { zero: 0, allocated: 0 })
        .zero(11, { allocated: true })
        .zero(1030)
        .snapshot('a')
        .write(0)
        .layout({ junk: 6, leaks: 1 }),
      /L2|data active:[0-5]$/,
    ),
    options: { roundBytes: 131072 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'an external data file, whose offsets are those of tables in this one',
    image: last(
      small({ dataFile: true, dataFileRaw: true, virtualSize: 1 << 20 })
        .writeRange(0, 70)
        .write(200)
        .zero(201)
        .writeRange(2000, 20)
        .zero(300, { allocated: true })
        .write(900)
        .write(1300)
        .layout({ junk: 14, leaks: 3 }),
      /L2/,
    ),
    options: { roundBytes: 1024 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'legacy AES encryption',
    image: shared({ encryption: 1 }).layout({ shuffle: true, junk: 20 }),
    options: { roundBytes: 4096 },
    happened: shorter,
  },
  {
    name: 'LUKS encryption: the tables move between the data, which stay',
    image: last(
      shared({ encryption: 2 }).discard(4).layout({ junk: 20, leaks: 3 }),
      /^(refcount|snapshot|L1|L2)/,
    ),
    options: { roundBytes: 1024 },
    happened: both(
      both(shorter, leaksGone),
      (_, after) => inspect(after).liveClusters < inspect(after).clusterCount,
    ),
  },
  {
    name: 'LUKS encryption: data at the front, so that nothing unused remains',
    image: first(
      shared({ encryption: 2, refcountOrder: 5 }).snapshot('b').write(1).layout({ junk: 30, gap: 200 }),
      /^(data|LUKS)/,
    ),
    options: { roundBytes: 2048 },
    happened: both(shorter, (_, after) => inspect(after).liveClusters === inspect(after).clusterCount),
  },
  {
    name: 'LUKS encryption: L1 tables of several clusters among the data',
    image: last(
      shared({ encryption: 2, l1Size: 150 }).snapshot('b').write(9).layout({ junk: 9, gap: 7 }),
      /^(L1|L2)/,
    ),
    options: { roundBytes: 4096 },
    happened: both(
      shorter,
      changed(({ l1Offset }) => l1Offset),
    ),
  },
  {
    name: 'LUKS encryption: junk is punched',
    image: shared({ encryption: 2 }).layout({ shuffle: true, junk: 20, leaks: 15 }),
    erase: { punch: true },
    happened: both(leaksGone, (before, after) => before.length === after.length),
  },
  {
    name: 'persistent bitmaps: a directory and tables of several clusters, scattered',
    image: bitmapped(shared({ refcountOrder: 5, seed: 8 })).layout({
      shuffle: true,
      junk: 25,
      leaks: 4,
      overcounted: 4,
      garbageTails: true,
    }),
    options: { roundBytes: 2048 },
    happened: both(both(shorter, leaksGone), bitmapsMoved),
  },
  {
    name: 'persistent bitmaps: all that the header names moves at once, in two sectors of it',
    image: last(
      image({ clusterBits: 12, virtualSize: 1 << 20, seed: 5, featureNames: 8 })
        .writeRange(0, 4)
        .snapshot('a')
        .write(0)
        .bitmap('a', { granularityBits: 9 })
        .bitmap('b', { entries: ['ones'] })
        .layout({ junk: 13 }),
      /^(L1|refcount|snapshot|bitmap|bits)/,
    ),
    happened: both(both(shorter, bitmapsMoved), (before, after) => {
      const { l1Offset, refcountTableOffset, snapshotsOffset } = layoutOf(before);
      const moved = layoutOf(after);
      return (
        layoutOf(before).bitmaps!.slot >= 512 &&
        l1Offset !== moved.l1Offset &&
        refcountTableOffset !== moved.refcountTableOffset &&
        snapshotsOffset !== moved.snapshotsOffset
      );
    }),
  },
  {
    name: 'LUKS encryption: persistent bitmaps, which are not encrypted, move between the data',
    image: last(bitmapped(small({ encryption: 2 }).writeRange(0, 9)).layout({ gap: 80 }), /^bit/),
    options: { roundBytes: 4096 },
    happened: both(shorter, bitmapsMoved),
  },
  {
    name: 'LUKS encryption with its key: data move, encrypted anew',
    image: first(
      shared(UNLOCKABLE).discard(4).layout({ shuffle: true, junk: 20, leaks: 4, partialTail: true }),
      /^LUKS/,
    ),
    options: { roundBytes: 2048 },
    happened: both(both(shorter, leaksGone), nothingUnused),
  },
  {
    name: 'LUKS encryption with its key: zero clusters, machine state and two slots for one cluster, clusters of 4 KiB',
    image: first(
      image({ ...UNLOCKABLE, clusterBits: 12, virtualSize: 3 << 20, seed: 5 })
        .writeRange(0, 6)
        .alias(1, 600)
        .zero(2, { allocated: true })
        .snapshot('a', { vmStateClusters: 2 })
        .write(0)
        .layout({ shuffle: true, junk: 9 }),
      /^LUKS/,
    ),
    options: { roundBytes: 8192 },
    happened: both(shorter, nothingUnused),
  },
  {
    name: 'LUKS encryption with its key: leaks that need the COPIED flag, and a host with room for four clusters',
    image: first(
      small(UNLOCKABLE)
        .writeRange(0, 24)
        .snapshot('a')
        .deleteSnapshot('a', { interrupted: true })
        .layout({ shuffle: true, junk: 12, zeroJunk: true }),
      /^LUKS/,
    ),
    freeBytes: 4096,
    happened: both(shorter, leaksGone),
  },
  {
    name: 'LUKS encryption with its key: tables and data around the header, which stays',
    image: last(
      shared({ ...UNLOCKABLE, l1Size: 150 })
        .snapshot('b')
        .write(9)
        .layout({ junk: 9, gap: 14 }),
      /^(L1|L2|data)/,
    ),
    options: { roundBytes: 4096 },
    happened: shorter,
  },
  {
    name: 'LUKS encryption with its key: compressed extents, which are not encrypted, and data among them',
    image: first(
      small(UNLOCKABLE)
        .compressRange(0, 20)
        .writeRange(30, 8)
        .snapshot('a')
        .compressRange(3, 5)
        .write(31)
        .layout({ shuffle: true, junk: 10, deadBytes: 0.3 }),
      /^LUKS/,
    ),
    options: { roundBytes: 4096 },
    happened: both(shorter, nothingUnused),
  },
  {
    name: 'a backing file',
    image: shared({ backingFile: 'base.raw', backingFormat: 'raw', featureNames: 3 }).layout({
      shuffle: true,
      junk: 20,
    }),
    options: { roundBytes: 4096 },
    happened: shorter,
  },
  {
    name: 'compressed extents with dead bytes between them',
    image: small().compressRange(0, 30).layout({ shuffle: true, junk: 12, deadBytes: 0.4, newStreams: 0.2 }),
    options: { roundBytes: 4096 },
    happened: shorter,
  },
  {
    name: 'compressed extents that snapshots share, clusters of 4 KiB, a tail that ends in a sector',
    image: image({ clusterBits: 12, virtualSize: 1 << 20, seed: 5 })
      .compressRange(0, 12)
      .snapshot('a')
      .compressRange(4, 4)
      .writeRange(9, 2)
      .snapshot('b')
      .compressRange(20, 3)
      .deleteSnapshot('a')
      .layout({ shuffle: true, junk: 5, deadBytes: 0.3, compressedTail: true }),
    options: { roundBytes: 65_536 },
    happened: shorter,
  },
  {
    name: 'compressed extents that step aside, clusters of 4 KiB, window by window',
    image: image({ clusterBits: 12, virtualSize: 2 << 20, seed: 8 })
      .compressRange(0, 60)
      .layout({ deadBytes: 0.5, junk: 2 }),
    options: { roundBytes: 16_384 },
    happened: shorter,
  },
  {
    name: 'compressed extents, 2-bit refcounts',
    image: small({ refcountOrder: 1 })
      .compressRange(0, 20)
      .snapshot('a')
      .compressRange(3, 5)
      .layout({ shuffle: true, junk: 10, deadBytes: 0.3 }),
    options: { roundBytes: 4096 },
    happened: shorter,
  },
  {
    name: 'compressed extents of which the last fill what is dead, clusters of 8 KiB',
    image: image({ clusterBits: 13, virtualSize: 2 << 20, seed: 6 })
      .compressRange(0, 60)
      .layout({ deadBytes: 0.06, newStreams: 0.2, junk: 2 }),
    options: { roundBytes: 65_536 },
    happened: shorter,
  },
  {
    name: 'compressed extents, few to a cluster, clusters of 4 KiB with 2-bit refcounts',
    image: image({ clusterBits: 12, virtualSize: 1 << 20, refcountOrder: 1, seed: 7 })
      .compressRange(0, 60)
      .layout({ deadBytes: 0.4, freshSectors: 0.3, newStreams: 0.1, junk: 3 }),
    options: { roundBytes: 32_768 },
    happened: shorter,
  },
  {
    name: 'L2 tables without an entry, one of them of a snapshot too',
    image: withEmptyTables(),
    happened: (before, after) => emptyTablesOf(before) === 3 && emptyTablesOf(after) === 0,
  },
  {
    name: 'preallocated clusters are given up, some of them shared',
    image: preallocated(small()),
    options: { dropPreallocation: true, roundBytes: 4096 },
    happened: shorter,
  },
  {
    name: 'preallocated clusters are given up, all of which a snapshot still uses',
    image: small()
      .writeRange(0, 5)
      .snapshot('a')
      .zeroInPlace(0)
      .zeroInPlace(1)
      .zeroInPlace(2)
      .layout({ junk: 2 }),
    options: { dropPreallocation: true },
    happened: (before, after) => before.length - after.length === 2 * 512,
  },
  {
    name: 'preallocated clusters of extended entries are given up, and a table with them',
    image: image({ clusterBits: 14, virtualSize: 64 << 20, extendedL2: true, seed: 4 })
      .writeRange(0, 3)
      .writeSubclusters(5, { zero: 0xf0, allocated: 0 })
      .snapshot('a')
      .writeSubclusters(6, { zero: 1, allocated: 6 })
      .writeSubclusters(2000, { zero: 0, allocated: 0 })
      .layout({ shuffle: true }),
    options: { dropPreallocation: true },
    happened: (before, after) => before.length - after.length === 3 << 14,
  },
  {
    name: 'a pool is kept',
    image: shared({ refcountOrder: 5 }).layout({ shuffle: true, junk: 30, leaks: 10 }),
    options: { roundBytes: 2048, keepErased: 6 },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'a pool is kept and punched',
    image: shared().layout({ shuffle: true, junk: 30, leaks: 10 }),
    options: { roundBytes: 2048, keepErased: 12, punch: true },
    happened: both(shorter, leaksGone),
  },
  {
    name: 'junk is erased',
    image: shared().layout({ shuffle: true, junk: 20, leaks: 15, overcounted: 4, partialTail: true }),
    erase: {},
    happened: (before, after) =>
      before.length === after.length && inspect(after).leaks < inspect(before).leaks,
  },
  {
    name: 'some junk is punched',
    image: shared({ refcountOrder: 6 }).layout({ shuffle: true, junk: 20, leaks: 15, gap: 80 }),
    erase: { keepErased: 60, punch: true },
    happened: (before, after) => before.length === after.length && Buffer.compare(before, after) !== 0,
  },
];

/** Tables 1 and 2 of the active layer, one of which the snapshot has too, and one of the snapshot alone. */
function withEmptyTables(): ImageBuilder {
  const builder = small({ virtualSize: 160 << 10 })
    .writeRange(0, 8)
    .writeRange(64, 2)
    .write(128)
    .write(256);
  for (const cluster of [64, 65, 256]) builder.discard(cluster);
  builder.snapshot('a').write(256).write(200).discard(128);
  builder.write(260).discard(260);
  return builder.layout({ shuffle: true, junk: 5 });
}

function emptyTablesOf(bytes: Uint8Array): number {
  return minimalClusterCount(bytes, { emptyTables: 'kept' }) - minimalClusterCount(bytes);
}

/** With a cluster that reads as zeroes here and as data in a snapshot, so that a refcount falls to 1 under an entry. */
function preallocated(builder: ImageBuilder): ImageBuilder {
  builder.writeRange(0, 6).zero(2, { allocated: true }).zero(10, { allocated: true }).snapshot('a');
  return builder
    .zero(4)
    .zero(20, { allocated: true })
    .write(64)
    .layout({ shuffle: true, junk: 3, overcounted: 3 });
}

function halfMoved(): ImageBuilder {
  const builder = small().writeRange(0, 8).writeRange(64, 4).snapshot('a').write(1).write(2);
  if (!builder.halfMoveData(3) || !builder.halfMoveL2(1)) throw new Error('nothing is shared');
  return builder;
}
