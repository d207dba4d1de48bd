import { describe, expect, test } from 'vitest';
import { FaultDevice } from '../../src/device/fault-device.js';
import { openImage } from '../../src/image/image.js';
import { walk } from '../../src/image/walk.js';
import { Random } from '../support/random.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { opened } from './opened.js';

/** 64-bit counts: a sector has 64, a block of 4 KiB has 512; three blocks. */
async function threeBlocks() {
  const built = image({ clusterBits: 12, refcountOrder: 6 })
    .write(0)
    .layout({ junkAtEnd: 1200 })
    .buildWithMap();
  const found = await opened(built.bytes);
  const blockAt = (index: number) => built.where(`refcount block ${index}`) * 4096;
  expect(found.image.refcounts.blocks.subarray(0, 3)).toEqual(
    Float64Array.of(blockAt(0), blockAt(1), blockAt(2)),
  );
  return { ...found, refcounts: found.image.refcounts, blockAt };
}

function spans(log: { kind: string; offset?: number; bytes?: Uint8Array }[]): [number, number][] {
  return log.map(({ offset, bytes }) => [offset!, bytes!.length]);
}

describe('writing changed counts', () => {
  test('nothing changed: nothing written', async () => {
    const { refcounts, recorder } = await threeBlocks();
    refcounts.set(0, 1);
    expect(refcounts.hasDirty).toBe(false);
    await refcounts.writeDirty(recorder);
    expect(recorder.log).toEqual([]);
  });

  test('one count: one sector', async () => {
    const { refcounts, recorder, blockAt, memory } = await threeBlocks();
    refcounts.set(100, 7);
    expect(refcounts.hasDirty).toBe(true);
    await refcounts.writeDirty(recorder);
    expect(spans(recorder.log as never)).toEqual([[blockAt(0) + 512, 512]]);
    expect(memory.bytes()[blockAt(0) + 100 * 8 + 7]).toBe(7);
    expect(refcounts.hasDirty).toBe(false);
    await refcounts.writeDirty(recorder);
    expect(recorder.log).toHaveLength(1);
  });

  test('a count that changes while its sector is being written is written again, and so is one whose write failed', async () => {
    const { refcounts, recorder, blockAt, memory } = await threeBlocks();
    refcounts.set(100, 7);
    const writing = refcounts.writeDirty(recorder);
    refcounts.set(101, 8);
    await writing;
    expect(refcounts.hasDirty).toBe(true);
    const failing = new FaultDevice(recorder, { failAt: 1 });
    await expect(refcounts.writeDirty(failing)).rejects.toThrow('EIO');
    expect(refcounts.hasDirty).toBe(true);
    await refcounts.writeDirty(failing);
    expect(memory.bytes()[blockAt(0) + 101 * 8 + 7]).toBe(8);
    expect(refcounts.hasDirty).toBe(false);
  });

  test('neighbouring sectors in one write, others apart, each block by itself', async () => {
    const { refcounts, recorder, blockAt } = await threeBlocks();
    // Block 0: sectors 2, 3 and 4, then 7; block 1 (clusters 512 to 1023): its first sector, next to that.
    for (const cluster of [320, 130, 200, 131, 450, 512, 575, 1100]) refcounts.set(cluster, 3);
    await refcounts.writeDirty(recorder);
    expect(spans(recorder.log as never)).toEqual([
      [blockAt(0) + 2 * 512, 2 * 512],
      [blockAt(0) + 5 * 512, 512],
      [blockAt(0) + 7 * 512, 512],
      [blockAt(1), 512],
      [blockAt(2) + 512, 512],
    ]);
  });

  test('all sectors of a block: one write, which is the block', async () => {
    const { refcounts, recorder, blockAt, memory } = await threeBlocks();
    for (let sector = 0; sector < 8; sector++) refcounts.set(512 + sector * 64, 2);
    await refcounts.writeDirty(recorder);
    expect(spans(recorder.log as never)).toEqual([[blockAt(1), 4096]]);
    expect(memory.bytes().slice(blockAt(1), blockAt(1) + 4096)).toEqual(refcounts.encodeBlock(1));
  });

  test('never more than 1 MiB in one write', async () => {
    const built = image({ clusterBits: 21, refcountOrder: 6 }).write(0).build();
    const { image: found, recorder } = await opened(built);
    found.refcounts.resize(262144);
    for (let cluster = 10; cluster < 262144; cluster += 64) found.refcounts.set(cluster, 1);
    await found.refcounts.writeDirty(recorder);
    expect(recorder.log.map((op) => (op.kind === 'write' ? op.bytes.length : 0))).toEqual([1 << 20, 1 << 20]);
  });

  test('a count that is changed and changed back is written as it was', async () => {
    const { refcounts, recorder, memory } = await threeBlocks();
    const before = memory.bytes();
    refcounts.set(300, 1);
    refcounts.set(300, 0);
    await refcounts.writeDirty(recorder);
    expect(Buffer.compare(memory.bytes(), before)).toBe(0);
  });

  test('what is written is what a walk reads, for every width', async () => {
    for (let order = 0; order <= 6; order++) {
      const bytes = image({ clusterBits: 9, refcountOrder: order })
        .writeRange(0, 5)
        .layout({ junk: 300 })
        .build();
      const { image: found, recorder, walked, memory } = await opened(bytes);
      const random = new Random(order);
      const most = Math.min(2 ** (2 ** order) - 1, 0xffffffff);
      for (let i = 0; i < 80; i++) {
        const cluster = random.int(found.mappedClusters);
        if (walked.clusters.refs[cluster] === 0) found.refcounts.set(cluster, random.between(0, most));
      }
      await found.refcounts.writeDirty(recorder);
      const again = await openImage(memory);
      await walk(again);
      for (let cluster = 0; cluster < found.mappedClusters; cluster++) {
        expect(again.refcounts.get(cluster)).toBe(found.refcounts.get(cluster));
      }
    }
  });
});

describe('counts in memory', () => {
  test('a cluster that no block describes has 0 and can have nothing else', async () => {
    const { refcounts } = await threeBlocks();
    expect(refcounts.covers(1535)).toBe(true);
    expect(refcounts.covers(1536)).toBe(false);
    expect(refcounts.get(1536)).toBe(0);
    expect(() => refcounts.set(1536, 1)).toThrow(/no refcount block describes cluster 1536/);
    expect(() => refcounts.set(1536, 0)).not.toThrow();
  });

  test('a released block takes its counts along, and what was still to be written of them', async () => {
    const { refcounts, recorder } = await threeBlocks();
    refcounts.set(1100, 4);
    refcounts.removeBlock(2);
    expect(refcounts.get(1100)).toBe(0);
    expect(refcounts.covers(1100)).toBe(false);
    await refcounts.writeDirty(recorder);
    expect(recorder.log).toEqual([]);
  });

  test('a new block counts itself and nothing else', async () => {
    const { refcounts } = await threeBlocks();
    refcounts.resize(2000);
    refcounts.addBlock(3, 1540 * 4096);
    expect(refcounts.get(1540)).toBe(1);
    const block = refcounts.encodeBlock(3);
    expect(block[4 * 8 + 7]).toBe(1);
    expect(block.reduce((sum, byte) => sum + byte, 0)).toBe(1);
  });

  test('the table names the blocks, with 0 where there is none', async () => {
    const { refcounts, blockAt } = await threeBlocks();
    refcounts.removeBlock(1);
    const view = new DataView(refcounts.encodeTable(1).buffer);
    expect([0, 1, 2, 3].map((i) => Number(view.getBigUint64(i * 8)))).toEqual([blockAt(0), 0, blockAt(2), 0]);
    expect(refcounts.slotOf(2)).toBe(refcounts.tableOffset + 16);
  });

  test('a block is found by its place, wherever it went', async () => {
    const { refcounts, blockAt } = await threeBlocks();
    expect([0, 1, 2].map((i) => refcounts.indexOfBlock(blockAt(i)))).toEqual([0, 1, 2]);
    refcounts.blockMoved(1, 4096 * 700);
    expect(refcounts.indexOfBlock(blockAt(1))).toBe(-1);
    expect(refcounts.indexOfBlock(4096 * 700)).toBe(1);
    refcounts.removeBlock(0);
    expect(refcounts.indexOfBlock(blockAt(0))).toBe(-1);
    expect(refcounts.present).toEqual([1, 2]);
    refcounts.addBlock(5, 4096 * 800);
    expect(refcounts.indexOfBlock(4096 * 800)).toBe(5);
    expect(refcounts.present).toEqual([1, 2, 5]);
    expect(refcounts.indexOfBlock(0)).toBe(-1);
  });

  test('clusters that went and came back have the count 0, in the memory that there was', async () => {
    const { refcounts } = await threeBlocks();
    const memory = refcounts.counts;
    refcounts.set(1100, 4);
    refcounts.resize(1000);
    expect(refcounts.counts).toBe(memory);
    refcounts.resize(1200);
    expect(refcounts.counts).toBe(memory);
    expect(refcounts.get(1100)).toBe(0);
  });

  test('counts beyond the end of the file are found, and zeroed when they are dropped', async () => {
    for (const order of [0, 2, 4, 6]) {
      const bytes = image({ clusterBits: 9, refcountOrder: order })
        .writeRange(0, 4)
        .layout({ staleCounts: 3 })
        .build();
      expect(inspect(bytes).staleRefcountsPastEnd).toBeGreaterThan(0);
      const { image: found, recorder, memory } = await opened(bytes);
      expect(found.refcounts.hasStale).toBe(true);
      found.refcounts.dropStale();
      await found.refcounts.writeDirty(recorder);
      expect(inspect(memory.bytes())).toMatchObject({ staleRefcountsPastEnd: 0, corruptions: [], leaks: 0 });
      expect((await opened(memory.bytes())).image.refcounts.hasStale).toBe(false);
    }
  });
});
