/** What one request does to another, step by step (recycler contract, "What a client sees"). */
import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { type DeviceDiskOptions, Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { MoveState, Moves } from '../../src/recycler/moves.js';
import { State } from '../../src/recycler/cluster-map.js';
import { collectSlots } from '../../src/recycler/slot-collector.js';
import { image, type ImageBuilder } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { GateDevice } from '../recycler/gate-device.js';
import { isPending } from '../recycler/harness.js';
import { contentOf } from './model-run.js';

const CLUSTER = 4096;
const SECTOR = 512;

interface Rig {
  memory: MemoryDevice;
  recorder: RecordingDevice;
  gate: GateDevice;
  disk: Qcow2Disk;
  /** Host offset of a unit of the builder. */
  at: (unit: string) => number;
  read: (offset: number, lengthBytes: number) => Promise<Uint8Array>;
}

function small(): ImageBuilder {
  return image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 });
}

async function rigOf(builder: ImageBuilder, options: DeviceDiskOptions = {}): Promise<Rig> {
  const { bytes, where } = builder.buildWithMap();
  const memory = new MemoryDevice(bytes);
  const recorder = new RecordingDevice(memory);
  const gate = new GateDevice(recorder);
  const clusterBytes = 2 ** builder.model.format.clusterBits;
  const disk = await Qcow2Disk.on(gate, { fillBytes: 8 * clusterBytes, ...options });
  return {
    memory,
    recorder,
    gate,
    disk,
    at: (unit) => where(unit) * clusterBytes,
    async read(offset, lengthBytes) {
      const target = new Uint8Array(lengthBytes);
      await disk.read(target, offset);
      return target;
    },
  };
}

const filled = (byte: number, lengthBytes = SECTOR) => new Uint8Array(lengthBytes).fill(byte);

describe('writes in place', () => {
  test('C64: of neighbours in one cluster do not wait for each other', async () => {
    const { gate, disk, at } = await rigOf(small().write(3));
    const shut = gate.shut('write', at('data active:3'), SECTOR);
    const first = disk.write(filled(1), 3 * CLUSTER);
    await shut.arrived;
    await disk.write(filled(2), 3 * CLUSTER + SECTOR);
    expect(await isPending(first)).toBe(true);
    shut.open();
    await first;
  });

  test('change nothing but the data: no table, no refcount, and one barrier for the flush', async () => {
    const { recorder, disk, at } = await rigOf(small().write(3));
    await disk.write(filled(1, 700), 3 * CLUSTER + 100);
    await disk.flush();
    // The first barrier is that before the first change.
    expect(recorder.log.map(({ kind }) => kind)).toEqual(['flush', 'write', 'flush']);
    expect(recorder.log[1]).toMatchObject({ offset: at('data active:3') + 100 });
  });

  test('go on while somebody reads there', async () => {
    const { gate, disk, at, read } = await rigOf(small().write(3));
    const shut = gate.shut('read', at('data active:3'), SECTOR);
    const reading = read(3 * CLUSTER, SECTOR);
    await shut.arrived;
    await disk.write(filled(2), 3 * CLUSTER + SECTOR);
    shut.open();
    await reading;
  });
});

/** A discard that waits for a write to the cluster at `place`, which `first` holds back. */
async function discardBehindWrite() {
  const { gate, disk, at, read } = await rigOf(small().write(3));
  const place = at('data active:3');
  const first = gate.shut('write', place, SECTOR);
  const writing = disk.write(filled(1), 3 * CLUSTER);
  await first.arrived;
  const discarding = disk.discard(3 * CLUSTER, CLUSTER);
  expect(await isPending(discarding)).toBe(true);
  return { gate, disk, read, place, first, writing, discarding };
}

describe('a discard', () => {
  test('waits for a read of the cluster, whose place is not used before', async () => {
    const { gate, disk, at, read } = await rigOf(small().write(3));
    const before = await read(3 * CLUSTER, CLUSTER);
    const shut = gate.shut('read', at('data active:3'), CLUSTER);
    const reading = read(3 * CLUSTER, CLUSTER);
    await shut.arrived;
    const discarding = disk.discard(3 * CLUSTER, CLUSTER);
    expect(await isPending(discarding)).toBe(true);
    shut.open();
    expect(await reading).toEqual(before);
    await discarding;
    expect(await read(3 * CLUSTER, CLUSTER)).toEqual(filled(0, CLUSTER));
  });

  test('makes a write that waits for it look again: it goes to another place', async () => {
    const { gate, disk, read, place, first, writing, discarding } = await discardBehindWrite();
    const later = disk.write(filled(2), 3 * CLUSTER + SECTOR);
    expect(await isPending(later)).toBe(true);
    // Nobody may write to the old place any more.
    const shut = gate.shut('write', place, CLUSTER);
    first.open();
    await Promise.all([discarding, later]);
    expect(await read(3 * CLUSTER + SECTOR, SECTOR)).toEqual(filled(2));
    shut.open();
    await writing;
  });

  test('makes a read that waits for it look again: it reads zeroes, not the old place', async () => {
    const { gate, read, place, first, writing, discarding } = await discardBehindWrite();
    const reading = read(3 * CLUSTER + SECTOR, SECTOR);
    expect(await isPending(reading)).toBe(true);
    const shut = gate.shut('read', place, CLUSTER);
    first.open();
    await discarding;
    expect(await reading).toEqual(filled(0));
    shut.open();
    await writing;
  });

  test('C62: frees its cluster at the barrier behind its entry, not before', async () => {
    const { gate, disk, at } = await rigOf(small().write(3).write(4));
    const { map } = disk.recycler!;
    const cluster = at('data active:3') / CLUSTER;
    await disk.discard(3 * CLUSTER, CLUSTER);
    expect(map.is(cluster, State.leaving)).toBe(true);
    // A barrier that is not behind the entry makes nothing of it durable.
    await disk.recycler!.flush();
    expect(map.is(cluster, State.leaving)).toBe(true);
    const shut = gate.shut('flush');
    const flushing = disk.flush();
    await shut.arrived;
    expect(map.is(cluster, State.leaving)).toBe(true);
    shut.open();
    await flushing;
    expect(map.is(cluster, State.junk)).toBe(true);
  });
});

describe('a move of the recycler', () => {
  /** A round that moves the data of guest cluster 3 into the first unused cluster. */
  async function moving(rig: Rig): Promise<{ source: number; destination: number }> {
    const { volume } = rig.disk.recycler!;
    const source = rig.at('data active:3') / CLUSTER;
    const destination = [...Array(volume.map.clusterCount).keys()].find((c) => volume.map.is(c, State.junk))!;
    const sources = Uint32Array.of(source);
    const [slots] = await collectSlots(volume.image, volume.clusters, sources, new Uint32Array(1), 1);
    const flagged = (cluster: number) => volume.clusters.needsFlag(cluster);
    rig.disk.recycler!.begin(new Moves(sources, Uint32Array.of(destination), slots!, flagged));
    return { source, destination };
  }
  const junky = () => small().write(3).write(4).layout({ junk: 3 });

  test.each([
    ['a write', (disk: Qcow2Disk) => disk.write(filled(1), 3 * CLUSTER)],
    ['a discard', (disk: Qcow2Disk) => disk.discard(3 * CLUSTER, CLUSTER)],
  ])(
    'is cancelled by %s while it copies, when it has copied, and when that is durable',
    async (_, change) => {
      for (const state of [MoveState.copying, MoveState.copied, MoveState.flushed]) {
        const rig = await rigOf(junky());
        const { source, destination } = await moving(rig);
        const recycler = rig.disk.recycler!;
        if (state >= MoveState.copied) await recycler.copy();
        if (state >= MoveState.flushed) await recycler.flush();
        expect(recycler.moveState(source)).toBe(state);
        await change(rig.disk);
        expect(recycler.unfinishedMoves).toBe(false);
        expect(recycler.map.is(destination, State.junk)).toBe(true);
        await rig.disk.close();
        expect(inspect(rig.memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
      }
    },
  );

  test('is not cancelled by a read, nor by a write to another cluster', async () => {
    const rig = await rigOf(junky());
    const { source } = await moving(rig);
    await rig.read(3 * CLUSTER, CLUSTER);
    await rig.disk.write(filled(1), 4 * CLUSTER);
    expect(rig.disk.recycler!.moveState(source)).toBe(MoveState.copying);
  });

  test('C67: makes a write wait for the copy at hand, and a read not', async () => {
    const rig = await rigOf(junky());
    const { destination } = await moving(rig);
    const shut = rig.gate.shut('write', destination * CLUSTER, CLUSTER);
    const copying = rig.disk.recycler!.copy();
    await shut.arrived;
    const writing = rig.disk.write(filled(1), 3 * CLUSTER);
    await rig.read(3 * CLUSTER, CLUSTER);
    expect(await isPending(writing)).toBe(true);
    shut.open();
    await Promise.all([copying, writing]);
    expect(rig.disk.recycler!.unfinishedMoves).toBe(false);
    expect(await rig.read(3 * CLUSTER, SECTOR)).toEqual(filled(1));
  });
});

test('C13: a hundred writes at a time get a hundred places', async () => {
  const { memory, disk } = await rigOf(small(), { fillBytes: CLUSTER });
  const writes = [...Array(64).keys()].flatMap((cluster) => [
    disk.write(filled(cluster + 1), cluster * CLUSTER),
    disk.write(filled(cluster + 101), cluster * CLUSTER + SECTOR),
  ]);
  await Promise.all(writes);
  await disk.close();
  const content = await contentOf(memory.bytes(), null);
  for (let cluster = 0; cluster < 64; cluster++) {
    expect([content[cluster * CLUSTER], content[cluster * CLUSTER + SECTOR]]).toEqual([
      cluster + 1,
      cluster + 101,
    ]);
  }
  expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
});

test('of two entries that lead to one cluster the other one keeps it, with a count that says so', async () => {
  const { memory, disk, read } = await rigOf(small().write(3).alias(3, 9));
  const before = await read(9 * CLUSTER, CLUSTER);
  await disk.write(filled(1), 3 * CLUSTER);
  await disk.flush();
  await disk.recycler!.writeCounts();
  // A count of 1 would need the flag in the other entry.
  expect(inspect(memory.bytes()).corruptions).toEqual([]);
  await disk.write(filled(2), 9 * CLUSTER);
  await disk.close();
  const content = await contentOf(memory.bytes(), null);
  expect(content.subarray(9 * CLUSTER + SECTOR, 10 * CLUSTER)).toEqual(before.subarray(SECTOR));
  expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
});

test('a table that is being written is not read from disk again', async () => {
  // Tables of 64 entries in clusters of 512 bytes, of which two are kept.
  const builder = image({ virtualSize: 8 * 64 * 512, seed: 3 });
  for (let table = 0; table < 8; table++) builder.write(table * 64);
  const { gate, disk, at, read } = await rigOf(builder, { cacheBytes: 0 });
  const shut = gate.shut('write', at('L2 active:0'), 512);
  await disk.write(filled(7), 5 * 512);
  const flushing = disk.flush();
  await shut.arrived;
  for (let turn = 0; turn < 3; turn++)
    for (let table = 1; table < 8; table++) await read(table * 64 * 512, 512);
  expect(await read(5 * 512, 512)).toEqual(filled(7));
  shut.open();
  await flushing;
});

describe('an image that is opened for writing', () => {
  test('stays as it is where nobody writes, flushes and closings included', async () => {
    const { memory, recorder, disk, read } = await rigOf(small().write(3).layout({ junk: 4, leaks: 3 }));
    const before = memory.bytes();
    await read(0, 10 * CLUSTER);
    await disk.flush();
    await disk.close();
    expect(recorder.log).toEqual([]);
    expect(memory.bytes()).toEqual(before);
  });

  test('is left without leaks, and without unused clusters at its end', async () => {
    const { memory, disk } = await rigOf(small().write(3).write(4).layout({ leaks: 5, junkAtEnd: 9 }));
    await disk.write(filled(1), 20 * CLUSTER);
    await disk.discard(4 * CLUSTER, CLUSTER);
    await disk.close();
    const { leaks, corruptions } = inspect(memory.bytes());
    expect({ leaks, corruptions }).toEqual({ leaks: 0, corruptions: [] });
  });

  test('takes no request after it is closed, nor one that is not within the disk', async () => {
    const { disk } = await rigOf(small());
    await expect(disk.read(new Uint8Array(2), disk.sizeBytes - 1)).rejects.toMatchObject({ code: 'USAGE' });
    await expect(disk.write(filled(1), -1)).rejects.toMatchObject({ code: 'USAGE' });
    await expect(disk.discard(0.5, 1)).rejects.toMatchObject({ code: 'USAGE' });
    await disk.close();
    await expect(disk.write(filled(1), 0)).rejects.toMatchObject({ code: 'USAGE' });
  });
});

test('an image that is opened for reading takes no write, and is not touched', async () => {
  const { recorder, disk } = await rigOf(small().write(3), { readOnly: true });
  await expect(disk.write(filled(1), 0)).rejects.toMatchObject({ code: 'USAGE' });
  await expect(disk.discard(0, 512)).rejects.toMatchObject({ code: 'USAGE' });
  await disk.flush();
  await disk.close();
  expect(recorder.log).toEqual([]);
});

test('tables in memory stay within the bound, changed ones included', async () => {
  const builder = image({ virtualSize: 200 * 64 * 512, seed: 3 });
  const { disk, read, gate } = await rigOf(builder, { cacheBytes: 20 * 1024 });
  for (let table = 0; table < 200; table++) await disk.write(filled(table + 1), table * 64 * 512);
  expect(disk.cachedTables).toBeLessThanOrEqual(21);
  for (let table = 0; table < 200; table++)
    expect(await read(table * 64 * 512, 512)).toEqual(filled(table + 1));
  expect(disk.cachedTables).toBeLessThanOrEqual(21);
  // One request that changes all of them, too.
  const atOnce: number[] = [];
  gate.onOperation = () => atOnce.push(disk.cachedTables);
  await disk.discard(0, disk.sizeBytes);
  await disk.write(new Uint8Array(disk.sizeBytes).fill(9), 0);
  expect(Math.max(...atOnce)).toBeLessThanOrEqual(21 + 16);
});
