/**
 * The work of a compaction, counted to the last call and byte: what makes it slower on every machine fails here. The
 * images of work-images.ts are the same each time, and so are the counts. Where a change is meant to alter them, the
 * one table below is what follows it.
 */
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { SECTOR } from '../../src/device/block-device.js';
import { type FileCalls, FileDevice } from '../../src/device/file-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { CountingDevice, type Work } from '../support/counting-device.js';
import { inspect } from '../support/oracle.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CLUSTER, EXTENT, TURN, clean, compressed, half, snapshots, tail } from './work-images.js';

const WORD = 8;
/** Of the header alone, then header, refcount table, refcount block, L1 table and L2 table. */
const WALK = SECTOR + 3 * CLUSTER + WORD + CLUSTER;
/** L1 table and L2 table once more: which entries refer to what moves. */
const SLOTS = WORD + CLUSTER;
/** What the snapshots add to either: their L1 tables, and two L2 tables read along with the first. */
const MORE_TABLES = 2 * WORD + 2 * CLUSTER;
const NOTHING: Work = {
  ...{ reads: 0, bytesRead: 0, writes: 0, bytesWritten: 0, barriers: 0, truncates: 0 },
  ...{ shares: 0, bytesShared: 0, punches: 0, questions: 0 },
};
/** Before the first write, after the copies, after the new references, and at the end. */
const FOUR_BARRIERS = 4;
/** What is allocated: when it is opened, before and after. What room there is: once. */
const ALLOCATED = 3;
const ROOM = 1;
/** Where data begin and end, of all stretches that move. */
const DATA = 2;

interface Case {
  image: () => Uint8Array;
  canShare?: boolean;
  work: Work;
}

/** A refcount block has 256 counts a sector, a table 64 entries. */
const CASES: Record<string, Case> = {
  clean: {
    image: clean,
    work: { ...NOTHING, reads: 6, bytesRead: WALK, questions: ALLOCATED },
  },
  // 240 clusters move in 15 pieces. The guest's clusters 240 to 479 are theirs: sectors 3 to 7 of the L2 table.
  half: {
    image: half,
    work: {
      ...NOTHING,
      reads: 6 + 2 + 15 + 1,
      bytesRead: WALK + SLOTS + 15 * TURN * CLUSTER + 5 * SECTOR,
      // Counts of the new places; pieces; entries; counts of the old places.
      writes: 1 + 15 + 1 + 1,
      bytesWritten: 2 * SECTOR + 15 * TURN * CLUSTER + 5 * SECTOR + 3 * SECTOR,
      barriers: FOUR_BARRIERS,
      truncates: 1,
      questions: ALLOCATED + ROOM + DATA,
    },
  },
  // The same, but not a byte of the guest's is read or written.
  'half, blocks shared': {
    image: half,
    canShare: true,
    work: {
      ...NOTHING,
      reads: 6 + 2 + 1,
      bytesRead: WALK + SLOTS + 5 * SECTOR,
      writes: 1 + 1 + 1,
      bytesWritten: 2 * SECTOR + 5 * SECTOR + 3 * SECTOR,
      barriers: FOUR_BARRIERS,
      truncates: 1,
      shares: 15,
      bytesShared: 15 * TURN * CLUSTER,
      questions: ALLOCATED + ROOM + 1,
    },
  },
  // 32 clusters move in one piece; their entries and the counts of their new places lie in one sector each.
  tail: {
    image: tail,
    work: {
      ...NOTHING,
      reads: 6 + 2 + 1 + 1,
      bytesRead: WALK + SLOTS + 2 * TURN * CLUSTER + SECTOR,
      writes: 1 + 1 + 1 + 1,
      bytesWritten: SECTOR + 2 * TURN * CLUSTER + SECTOR + 2 * SECTOR,
      barriers: FOUR_BARRIERS,
      truncates: 1,
      questions: ALLOCATED + ROOM + DATA,
    },
  },
  // 240 clusters move; their entries lie in 2, 5 and 4 sectors of the three L2 tables.
  snapshots: {
    image: snapshots,
    work: {
      ...NOTHING,
      // The snapshot table too; the three L2 tables are neighbours and read at once.
      reads: 6 + 3 + (2 + 2) + 15 + 3,
      bytesRead: WALK + SECTOR + MORE_TABLES + SLOTS + MORE_TABLES + 15 * TURN * CLUSTER + 11 * SECTOR,
      writes: 1 + 15 + 3 + 1,
      bytesWritten: 2 * SECTOR + 15 * TURN * CLUSTER + 11 * SECTOR + 3 * SECTOR,
      barriers: FOUR_BARRIERS,
      truncates: 1,
      questions: ALLOCATED + ROOM + DATA,
    },
  },
  // 32 extents from the end of the file fill the 32 gaps, each by itself; 64 entries and all counts fit in a sector.
  compressed: {
    image: compressed,
    work: {
      ...NOTHING,
      reads: 6 + 2 + 32 + 1,
      bytesRead: WALK + SLOTS + 32 * EXTENT + SECTOR,
      writes: 1 + 32 + 1 + 1,
      bytesWritten: SECTOR + 32 * EXTENT + SECTOR + SECTOR,
      barriers: FOUR_BARRIERS,
      truncates: 1,
      questions: ALLOCATED + ROOM + DATA,
    },
  },
};

async function workOn(image: Uint8Array, canShare = false): Promise<Work> {
  const memory = new MemoryDevice(image, { canShare });
  const device = new CountingDevice(memory);
  await compactDevice(device);
  const { corruptions, leaks, liveClusters, clusterCount } = inspect(memory.bytes());
  expect({ corruptions, leaks, excess: clusterCount - liveClusters }).toEqual({
    corruptions: [],
    leaks: 0,
    excess: 0,
  });
  return device.work;
}

describe('the work of a compaction:', () => {
  test.each(Object.entries(CASES))('%s', async (_, { image, canShare, work }) => {
    expect(await workOn(image(), canShare)).toEqual(work);
  });

  test.each(Object.entries(CASES))('%s: the same once more', async (_, { image, canShare }) => {
    expect(await workOn(image(), canShare)).toEqual(await workOn(image(), canShare));
  });

  test.each(Object.entries(CASES))('%s: nothing is left to do after it', async (_, { image, canShare }) => {
    const memory = new MemoryDevice(image(), { canShare: canShare ?? false });
    await compactDevice(memory);
    const { writes, barriers, truncates, shares } = await workOn(memory.bytes());
    expect({ writes, barriers, truncates, shares }).toEqual({
      writes: 0,
      barriers: 0,
      truncates: 0,
      shares: 0,
    });
  });
});

/** Counts what is asked of the host, by the names of its calls. */
class CountedCalls {
  readonly counts = { read: 0, write: 0, fdatasync: 0, ftruncate: 0 };
  readonly calls: Partial<FileCalls> = {
    read: (...given) => {
      this.counts.read++;
      fs.read(...given);
    },
    write: (...given) => {
      this.counts.write++;
      fs.write(...given);
    },
    fdatasync: (...given) => {
      this.counts.fdatasync++;
      fs.fdatasync(...given);
    },
    ftruncate: (...given) => {
      this.counts.ftruncate++;
      fs.ftruncate(...given);
    },
    canShare: () => false,
  };
}

describe('on a file each of them is one system call:', () => {
  const directory = temporaryDirectory();
  const copying = Object.entries(CASES).filter(([, { canShare }]) => canShare !== true);

  test.each(copying)('%s', async (_, { image, work }) => {
    const path = directory.path('image.qcow2');
    fs.writeFileSync(path, image());
    const { calls, counts } = new CountedCalls();
    const device = new FileDevice(fs.openSync(path, 'r+'), path, { calls });
    try {
      await compactDevice(device);
    } finally {
      await device.close();
    }
    expect(counts).toEqual({
      read: work.reads,
      write: work.writes,
      fdatasync: work.barriers,
      ftruncate: work.truncates,
    });
  });
});
