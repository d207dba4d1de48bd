/** Where clients get their clusters, and what they see of moves and discards (recycler contract C11 to C14, C31, C62 to C67). */
import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { Allocator } from '../../src/disk/allocator.js';
import { type DeviceDiskOptions, Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { State } from '../../src/recycler/cluster-map.js';
import { MoveState } from '../../src/recycler/moves.js';
import { FakeClock } from '../device/fake-clock.js';
import { GateDevice } from '../recycler/gate-device.js';
import { type Rig, clustersIn, isPending, plannedMoves, rigFor } from '../recycler/harness.js';
import { crashStates } from '../support/crash-simulator.js';
import { type ImageBuilder, image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { contentOf, findIn } from './model-run.js';

const CLUSTER = 4096;
const SECTOR = 512;

function small(): ImageBuilder {
  return image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 });
}

const filled = (byte: number, lengthBytes = CLUSTER) => new Uint8Array(lengthBytes).fill(byte);

/** A recycler over an image with junk between its clusters, and an allocator that makes `fill` clusters ready at a time. */
async function allocatorOn(junk: number, fill: number): Promise<{ rig: Rig; allocator: Allocator }> {
  const bytes = small().writeRange(0, 10).layout({ shuffle: true, junk }).build();
  const rig = await rigFor(bytes);
  return { rig, allocator: new Allocator(rig.recycler, fill * CLUSTER) };
}

describe('C11', () => {
  test('as many clusters as are asked for, from what was available, wherever they are', async () => {
    const { rig, allocator } = await allocatorOn(6, 6);
    await allocator.allocate(1);
    const available = clustersIn(rig, State.available);
    expect(available).toHaveLength(5);
    const taken = await allocator.allocate(4);
    expect(taken).toHaveLength(4);
    expect(available).toEqual(expect.arrayContaining(taken));
    expect(clustersIn(rig, State.held)).toHaveLength(5);
    expect(clustersIn(rig, State.available)).toHaveLength(1);
  });

  test('more than there are: nothing is taken until all of them are ready', async () => {
    const { rig, allocator } = await allocatorOn(6, 6);
    await allocator.allocate(4);
    const shut = rig.gate.shut('flush');
    const allocating = allocator.allocate(9);
    await shut.arrived;
    expect(await isPending(allocating)).toBe(true);
    expect(clustersIn(rig, State.available)).toHaveLength(2);
    shut.open();
    expect(new Set(await allocating).size).toBe(9);
    // What was not used is there for the next.
    rig.recycler.assertConsistent();
    expect(clustersIn(rig, State.held)).toHaveLength(13);
  });

  test('where the file cannot grow nothing is taken', async () => {
    const { rig, allocator } = await allocatorOn(3, 3);
    const shut = rig.gate.shut('truncate');
    rig.gate.truncate = () => Promise.reject(new Error('no room'));
    await expect(allocator.allocate(50)).rejects.toThrow('no room');
    shut.open();
    expect(clustersIn(rig, State.held)).toEqual([]);
    rig.recycler.assertConsistent();
  });
});

test('C12: what is chosen is held at once; nobody moves, erases or cuts it off', async () => {
  const { rig, allocator } = await allocatorOn(8, 4);
  await allocator.allocate(2);
  const [one, other] = [allocator.allocate(1), allocator.allocate(1)];
  // Both are served without an await between choice and state.
  expect(clustersIn(rig, State.held)).toHaveLength(4);
  expect(await one).not.toEqual(await other);
  const held = clustersIn(rig, State.held);
  const moves = await plannedMoves(rig);
  for (const cluster of held) {
    expect([...moves.sources]).not.toContain(cluster);
    expect([...moves.destinations]).not.toContain(cluster);
  }
  rig.recorder.log.length = 0;
  await rig.recycler.erase(100, false);
  const written = rig.recorder.log.map((operation) =>
    'offset' in operation ? operation.offset / CLUSTER : 0,
  );
  for (const cluster of held) expect(written.map(Math.floor)).not.toContain(cluster);
  await rig.recycler.truncate();
  expect(clustersIn(rig, State.held)).toEqual(held);
  expect(rig.memory.lengthBytes).toBeGreaterThan(Math.max(...held) * CLUSTER);
});

test('C13: while somebody truncates or grows the file nobody gets a cluster, were there ever so many', async () => {
  const { rig, allocator } = await allocatorOn(6, 6);
  await allocator.allocate(1);
  let open: () => void = () => undefined;
  const holding = rig.recycler.metadata.run(() => new Promise<void>((resolve) => (open = resolve)));
  const allocating = allocator.allocate(2);
  expect(await isPending(allocating)).toBe(true);
  expect(clustersIn(rig, State.held)).toHaveLength(1);
  open();
  await Promise.all([holding, allocating]);
  expect(clustersIn(rig, State.held)).toHaveLength(3);
});

describe('C14', () => {
  test.each(['write', 'read'] as const)(
    'a request whose %s fails before it refers to its clusters gives them back',
    async (kind) => {
      const { bytes, where } = small().write(3).compress(5).buildWithMap();
      const memory = new MemoryDevice(bytes);
      const gate = new GateDevice(memory);
      const disk = await Qcow2Disk.on(gate, { fillBytes: 4 * CLUSTER });
      await disk.write(filled(1), 10 * CLUSTER);
      await disk.flush();
      const { map } = disk.recycler!;
      const [available, live] = [map.countOf(State.available), map.countOf(State.live)];
      const real = gate[kind].bind(gate);
      const table = where('L2 active:0') * CLUSTER;
      gate[kind] = (target: Uint8Array, offset: number) =>
        offset >= table && offset < table + CLUSTER
          ? real(target, offset)
          : Promise.reject(new Error('broken'));
      // A part of a compressed cluster: the rest of it has to be read first.
      await expect(disk.write(filled(2, SECTOR), 5 * CLUSTER)).rejects.toThrow('broken');
      gate[kind] = real;
      expect(map.countOf(State.held)).toBe(0);
      expect(map.countOf(State.live)).toBe(live);
      expect(map.countOf(State.available) + map.countOf(State.junk)).toBeGreaterThanOrEqual(available);
      disk.recycler!.assertConsistent();
      await disk.write(filled(2, SECTOR), 5 * CLUSTER);
      await disk.close();
      expect(inspect(memory.bytes()).corruptions).toEqual([]);
    },
  );
});

interface Live {
  disk: Qcow2Disk;
  gate: GateDevice;
  recorder: RecordingDevice;
  memory: MemoryDevice;
  content: Uint8Array;
}

async function liveOn(bytes: Uint8Array, options: DeviceDiskOptions = {}): Promise<Live> {
  const memory = new MemoryDevice(bytes);
  const recorder = new RecordingDevice(memory);
  const gate = new GateDevice(recorder);
  const disk = await Qcow2Disk.on(gate, { clock: new FakeClock(), fillBytes: CLUSTER, ...options });
  return { disk, gate, recorder, memory, content: await contentOf(bytes, null) };
}

/** The bytes of an image whose last data cluster is far behind its first hole. */
function holed(): { bytes: Uint8Array; last: number } {
  const { bytes, where } = small().writeRange(0, 20).buildWithMap();
  const order = [...Array(20).keys()].sort((a, b) => where(`data active:${a}`) - where(`data active:${b}`));
  return { bytes, last: order.at(-1)! };
}

test('C31: a cluster whose references are rewritten takes writes at its new place, before and after any crash', async () => {
  const { bytes, last } = holed();
  const rig = await liveOn(bytes);
  const first = last === 0 ? 1 : 0;
  await rig.disk.discard(first * CLUSTER, CLUSTER);
  await rig.disk.flush();
  rig.content.fill(0, first * CLUSTER, (first + 1) * CLUSTER);
  const start = rig.memory.bytes();
  rig.recorder.log.length = 0;
  const { recycler } = rig.disk;
  // The second barrier of the round stands still: references are rewritten, and not durable.
  let barriers = 0;
  let reached: () => void = () => undefined;
  let open: () => void = () => undefined;
  const arrived = new Promise<void>((resolve) => (reached = resolve));
  const passed = new Promise<void>((resolve) => (open = resolve));
  const flush = rig.gate.flush.bind(rig.gate);
  rig.gate.flush = async () => {
    if (recycler!.hasMoves(MoveState.referenced) && barriers++ === 0) {
      reached();
      await passed;
    }
    return flush();
  };
  const compacting = rig.disk.compactNow();
  await arrived;
  const writes = rig.recorder.log.length;
  await rig.disk.write(filled(9), last * CLUSTER);
  const written = rig.recorder.log.slice(writes).filter(({ kind }) => kind === 'write');
  expect(written).toHaveLength(1);
  const old = rig.content.slice(last * CLUSTER, (last + 1) * CLUSTER);
  let states = 0;
  for (const { bytes: state, label } of crashStates(start, rig.recorder.log, {
    seed: 4,
    subsetsPerWindow: 60,
  })) {
    states++;
    expect(inspect(state).corruptions, label).toEqual([]);
    const content = await contentOf(state.slice(), null);
    for (let at = 0; at < CLUSTER; at += SECTOR) {
      const sector = content.subarray(last * CLUSTER + at, last * CLUSTER + at + SECTOR);
      const isOld = Buffer.compare(sector, old.subarray(at, at + SECTOR)) === 0;
      expect(isOld || sector.every((byte) => byte === 9), label).toBe(true);
    }
  }
  expect(states).toBeGreaterThan(10);
  open();
  await compacting;
  await rig.disk.close();
  const after = await contentOf(rig.memory.bytes(), null);
  expect(after.subarray(last * CLUSTER, (last + 1) * CLUSTER)).toEqual(filled(9));
});

describe('C62', () => {
  test('one discard of a hundred clusters under one table writes the table once', async () => {
    const builder = image({ clusterBits: 12, virtualSize: 200 * CLUSTER, seed: 5 }).writeRange(0, 150);
    const { bytes, where } = builder.buildWithMap();
    const rig = await liveOn(bytes);
    rig.recorder.log.length = 0;
    await rig.disk.discard(20 * CLUSTER, 100 * CLUSTER);
    await rig.disk.flush();
    const table = where('L2 active:0');
    const inTable = rig.recorder.log.filter(
      (operation) => operation.kind === 'write' && Math.floor(operation.offset / CLUSTER) === table,
    );
    expect(inTable).toHaveLength(1);
    expect(rig.disk.recycler!.map.countOf(State.junk)).toBeGreaterThanOrEqual(100);
  });

  test('what a backing file has does not show again, and the ends that are no whole clusters read as zeroes', async () => {
    const base = filled(7, 64 * CLUSTER);
    const { bytes } = image({
      ...{ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 },
      ...{ backingFile: 'base.raw', backingFormat: 'raw' },
    })
      .writeRange(2, 3)
      .buildWithMap();
    const memory = new MemoryDevice(bytes);
    const disk = await Qcow2Disk.on(memory, { fillBytes: CLUSTER, findBacking: findIn(base) });
    const before = await contentOf(bytes, base);
    const [start, end] = [CLUSTER + 100, 6 * CLUSTER + 300];
    await disk.discard(start, end - start);
    await disk.close();
    before.fill(0, start, end);
    expect(Buffer.compare(await contentOf(memory.bytes(), base), before)).toBe(0);
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  });
});

test('C64: a request locks the clusters that it touches, and not one more', async () => {
  const { bytes, where } = small().writeRange(0, 6).buildWithMap();
  const rig = await liveOn(bytes);
  const place = (cluster: number) => where(`data active:${cluster}`);
  const shut = rig.gate.shut('write', place(2) * CLUSTER, CLUSTER);
  // To the very end of cluster 2.
  const writing = rig.disk.write(filled(1), 2 * CLUSTER);
  await shut.arrived;
  const { locks } = rig.disk.recycler!;
  for (let cluster = 0; cluster < 6; cluster++) {
    const release = locks.tryExclusive(place(cluster), 1);
    expect(release === null, `cluster ${cluster}`).toBe(cluster === 2);
    release?.();
  }
  shut.open();
  await writing;
  expect(locks.heldCount).toBe(0);
});

test('C66: nobody waits for the metadata lock with a cluster locked', async () => {
  const { bytes } = small().writeRange(0, 20).buildWithMap();
  const rig = await liveOn(bytes);
  const { locks, metadata } = rig.disk.recycler!;
  let open: () => void = () => undefined;
  // As a truncation of its own would hold it.
  const holding = metadata.run(() => new Promise<void>((resolve) => (open = resolve)));
  const requests = [
    rig.disk.write(filled(1), 30 * CLUSTER),
    rig.disk.write(filled(2, 100), 40 * CLUSTER + 5),
    rig.disk.compactNow(),
  ];
  for (const request of requests) expect(await isPending(request)).toBe(true);
  expect(locks.heldCount).toBe(0);
  // Who needs no room needs no such lock.
  await rig.disk.read(new Uint8Array(20 * CLUSTER), 0);
  await rig.disk.write(filled(3), 0);
  await rig.disk.discard(5 * CLUSTER, CLUSTER);
  open();
  await Promise.all([holding, ...requests]);
  await rig.disk.close();
  expect(inspect(rig.memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
});

test('C67: in each step of a round reads, writes and discards elsewhere are answered, without waiting for the step', async () => {
  const { bytes } = small().writeRange(0, 40).buildWithMap();
  for (const kind of ['read', 'write', 'flush', 'truncate'] as const) {
    const rig = await liveOn(bytes);
    await rig.disk.discard(0, 8 * CLUSTER);
    await rig.disk.flush();
    rig.content.fill(0, 0, 8 * CLUSTER);
    const shut = rig.gate.shut(kind);
    const compacting = rig.disk.compactNow();
    await shut.arrived;
    // What is in memory and in place needs none of the steps that stand still, but for those of its own.
    const answered: string[] = [];
    const ask = (name: string, work: Promise<void>) => work.then(() => void answered.push(name));
    const asked = [
      ask('read', rig.disk.read(new Uint8Array(4 * CLUSTER), 20 * CLUSTER)),
      ask('write', rig.disk.write(filled(5, SECTOR), 21 * CLUSTER)),
      ask('discard', rig.disk.discard(22 * CLUSTER, CLUSTER)),
    ];
    for (const work of asked) await isPending(work);
    expect(answered, `while a ${kind} stands still`).toEqual(
      expect.arrayContaining(['read', 'write'].filter((name) => name !== kind)),
    );
    shut.open();
    await Promise.all([...asked, compacting]);
    rig.content.fill(5, 21 * CLUSTER, 21 * CLUSTER + SECTOR).fill(0, 22 * CLUSTER, 23 * CLUSTER);
    await rig.disk.close();
    expect(Buffer.compare(await contentOf(rig.memory.bytes(), null), rig.content)).toBe(0);
  }
});
