/** Clients that are in the midst of something when a round comes by, step by step (recycler contract C35 to C41, C63). */
import { expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { LIVE_CLOCK } from '../../src/disk/background/options.js';
import { type DeviceDiskOptions, Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { Kind } from '../../src/image/host-clusters.js';
import { State } from '../../src/recycler/cluster-map.js';
import { Access } from '../../src/recycler/locks.js';
import { MoveState } from '../../src/recycler/moves.js';
import { FakeClock } from '../device/fake-clock.js';
import { type Gate, GateDevice } from '../recycler/gate-device.js';
import { inOrder, isPending } from '../recycler/harness.js';
import { type ImageBuilder, image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { contentOf } from './model-run.js';
import { readSnapshots } from './snapshots.js';

const CLUSTER = 4096;

function small(): ImageBuilder {
  return image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 });
}

async function rigOf(builder: ImageBuilder, options: DeviceDiskOptions = {}) {
  const { bytes, where } = builder.buildWithMap();
  const memory = new MemoryDevice(bytes);
  const gate = new GateDevice(memory);
  const disk = await Qcow2Disk.on(gate, { clock: new FakeClock(), fillBytes: CLUSTER, ...options });
  const content = await contentOf(bytes, null);
  /** Closes the disk; the image is valid, and the guest sees `content`. */
  const expectSound = async () => {
    await disk.close();
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
    expect(Buffer.compare(await contentOf(memory.bytes(), null), content)).toBe(0);
    expect(readSnapshots(memory.bytes())).toEqual(readSnapshots(bytes));
  };
  const write = (cluster: number, byte: number): Promise<void> => {
    content.fill(byte, cluster * CLUSTER, (cluster + 1) * CLUSTER);
    return disk.write(new Uint8Array(CLUSTER).fill(byte), cluster * CLUSTER);
  };
  const discard = async (first: number, count: number): Promise<void> => {
    content.fill(0, first * CLUSTER, (first + count) * CLUSTER);
    await disk.discard(first * CLUSTER, count * CLUSTER);
    await disk.flush();
  };
  const recycler = disk.recycler!;
  return { bytes, where, gate, disk, recycler, map: recycler.map, content, expectSound, write, discard };
}

/** Stops the next read at `offset`, but none after it. */
function stopNextRead(gate: GateDevice, offset: number): Gate {
  let arrive: () => void = () => undefined;
  let open: () => void = () => undefined;
  const arrived = new Promise<void>((resolve) => (arrive = resolve));
  const passed = new Promise<void>((resolve) => (open = resolve));
  const read = gate.read.bind(gate);
  gate.read = async (target, at) => {
    if (at !== offset) return read(target, at);
    gate.read = read;
    arrive();
    await passed;
    return read(target, at);
  };
  return { arrived, open };
}

test('C37: a copy of a shared table is made again where what it names has moved meanwhile', async () => {
  const rig = await rigOf(
    small()
      .writeRange(0, 20)
      .snapshot('a')
      .layout({ gap: 12, arrange: inOrder('refcount', 'L1', 'L2') }),
  );
  const l1 = rig.where('L1');
  const release = await rig.recycler.locks.exclusive(l1, 1);
  const writing = rig.write(3, 0x33);
  // The copy is on disk, and waits for the table that is to name it.
  expect(await isPending(writing)).toBe(true);
  await rig.disk.compactNow();
  expect(rig.recycler.referencesUpdated).toBeGreaterThan(5);
  release();
  await writing;
  await rig.disk.flush();
  await rig.expectSound();
});

test('C37: a cluster that the active layer lets go of while it moves for a snapshot stays', async () => {
  const builder = small().writeRange(0, 20).snapshot('a').write(0);
  const arrange = inOrder('refcount', 'L1', 'L2', 'junk');
  const rig = await rigOf(builder.layout({ gap: 12, arrange }), { fillBytes: 4 * CLUSTER, keepErased: 4 });
  // Fills the pool, so that the write below needs no barrier.
  await rig.write(50, 0x50);
  const shared = rig.where('data active:19');
  const copying = rig.gate.shut('read', shared * CLUSTER, CLUSTER);
  const compacting = rig.disk.compactNow();
  await copying.arrived;
  const barrier = rig.gate.shut('flush');
  copying.open();
  await barrier.arrived;
  expect(rig.recycler.moveState(shared)).toBe(MoveState.copied);
  await rig.write(19, 0x33);
  expect(rig.recycler.volume.clusters.refs[shared]).toBe(1);
  barrier.open();
  await compacting;
  // On disk the active layer still names it.
  expect(rig.map.is(shared, State.live)).toBe(true);
  await rig.disk.flush();
  await rig.disk.compactNow();
  expect(rig.map.is(shared, State.live)).toBe(false);
  await rig.expectSound();
});

test('C63: a table does not move while a client reads through it', async () => {
  const arrange = inOrder('refcount', 'L1', 'data', 'junk', 'L2');
  const rig = await rigOf(small().writeRange(0, 20).layout({ gap: 6, arrange }));
  const table = rig.where('L2 active:0');
  const shut = rig.gate.shut('read', rig.where('data active:0') * CLUSTER, 512);
  const target = new Uint8Array(512);
  const reading = rig.disk.read(target, 0);
  await shut.arrived;
  const compacting = rig.disk.compactNow();
  for (let looks = 0; looks < 20; looks++) await isPending(compacting);
  expect(rig.recycler.volume.clusters.kind(table)).toBe(Kind.l2Table);
  expect(rig.map.is(table, State.live)).toBe(true);
  shut.open();
  await Promise.all([reading, compacting]);
  expect(Buffer.compare(target, rig.content.subarray(0, 512))).toBe(0);
  await rig.disk.compactNow();
  expect(rig.map.countOf(State.junk)).toBe(0);
  await rig.expectSound();
});

test('C63: who waited for a table that moved goes through it where it is now', async () => {
  const arrange = inOrder('refcount', 'L1', 'data', 'junk', 'L2');
  const rig = await rigOf(small().writeRange(0, 20).layout({ gap: 3, arrange }));
  const [l1, last] = [rig.where('L1'), rig.where('data active:19')];
  const target = new Uint8Array(512);
  // The table is in memory.
  await rig.disk.read(target, 0);
  const pointing = rig.gate.shut('write', l1 * CLUSTER, CLUSTER);
  const first = rig.disk.compactNow();
  await pointing.arrived;
  const data = stopNextRead(rig.gate, last * CLUSTER);
  const reading = rig.disk.read(target, 19 * CLUSTER);
  pointing.open();
  await first;
  await data.arrived;
  // The table is elsewhere now; what is read through it does not move.
  await rig.discard(0, 2);
  const second = rig.disk.compactNow();
  for (let looks = 0; looks < 20; looks++) await isPending(second);
  expect(rig.map.is(last, State.live)).toBe(true);
  data.open();
  await Promise.all([reading, second]);
  expect(Buffer.compare(target, rig.content.subarray(19 * CLUSTER, 19 * CLUSTER + 512))).toBe(0);
  await rig.disk.compactNow();
  expect(rig.map.is(last, State.live)).toBe(false);
  await rig.expectSound();
});

test('C41: while a refcount block moves nobody fills the pool, which would change what it says', async () => {
  const arrange = inOrder('L1', 'L2', 'refcount table', 'data', 'junk', 'refcount block');
  const rig = await rigOf(small().writeRange(0, 20).layout({ gap: 3, arrange }));
  const block = rig.where('refcount block 0');
  const copying = rig.gate.shut('write', rig.where('junk') * CLUSTER, CLUSTER);
  const compacting = rig.disk.compactNow();
  await copying.arrived;
  expect(rig.recycler.moveState(block)).toBe(MoveState.copying);
  const writing = rig.write(40, 0x44);
  expect(await isPending(writing)).toBe(true);
  copying.open();
  await Promise.all([compacting, writing]);
  expect(rig.recycler.volume.clusters.kind(block)).not.toBe(Kind.refcountBlock);
  await rig.expectSound();
});

test('C35: a table that somebody is in all the time is given up, and the rest of the plan goes on', async () => {
  const rig = await rigOf(
    small()
      .writeRange(0, 20)
      .layout({ gap: 12, arrange: inOrder('refcount', 'L1', 'L2') }),
  );
  const release = await rig.recycler.locks.shared(rig.where('L2 active:0'), 1);
  expect(await rig.disk.compactNow()).toBe(0);
  expect(rig.recycler.unfinishedMoves).toBe(false);
  expect(rig.disk.status()!.failure).toBeNull();
  release();
  expect(await rig.disk.compactNow()).toBe(12 * CLUSTER);
  await rig.expectSound();
});

test('C35: a guest that is in its table all the time does not keep all where it is', async () => {
  const arrange = inOrder('refcount', 'L1', 'L2');
  const rig = await rigOf(small().writeRange(0, 20).layout({ gap: 12, arrange }), { clock: LIVE_CLOCK });
  let isOver = false;
  const guest = async () => {
    while (!isOver) {
      const release = await rig.recycler.locks.lock(rig.where('L2 active:0'), 1, Access.passing);
      await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 3));
      release();
    }
  };
  const guests = Array.from({ length: 6 }, guest);
  expect(await rig.disk.compactNow()).toBe(12 * CLUSTER);
  isOver = true;
  await Promise.all(guests);
  await rig.expectSound();
});

test('C41: what a flush writes to a table after it was copied is not lost, though the table was ahead before', async () => {
  const arrange = inOrder('refcount', 'L1', 'data', 'junk', 'L2');
  const rig = await rigOf(small().writeRange(0, 20).layout({ gap: 4, arrange }));
  const table = rig.where('L2 active:0');
  await rig.disk.read(new Uint8Array(512), 0);
  // The tables are read for the plan; meanwhile a client makes the one in memory be ahead of the disk.
  const planning = rig.gate.shut('read', table * CLUSTER, CLUSTER);
  const compacting = rig.disk.compactNow();
  await planning.arrived;
  await rig.write(30, 0x30);
  // The table is copied, and a flush writes what it was ahead before the barrier behind the copy is done.
  const copied = rig.gate.shut('flush');
  planning.open();
  await copied.arrived;
  expect(rig.recycler.moveState(table)).toBe(MoveState.copied);
  const flushing = rig.disk.flush();
  await isPending(flushing);
  copied.open();
  await Promise.all([compacting, flushing]);
  await rig.expectSound();
});

test('C63: a part of a cluster that was zeroes, which waited for a table, goes where its cluster is now', async () => {
  const arrange = inOrder('refcount', 'L1', 'L2', 'data');
  const rig = await rigOf(small().writeRange(0, 20).layout({ arrange }));
  const zeroes = rig.content.slice(19 * CLUSTER, 20 * CLUSTER).fill(0);
  await rig.disk.writeZeroes(19 * CLUSTER, CLUSTER, { mayUnmap: false });
  rig.content.set(zeroes, 19 * CLUSTER);
  await rig.discard(0, 1);
  // The references of the round are being written: the table is locked, and names another place afterwards.
  const pointing = rig.gate.shut('write', rig.where('L2 active:0') * CLUSTER, CLUSTER);
  const compacting = rig.disk.compactNow();
  await pointing.arrived;
  const part = new Uint8Array(512).fill(0x19);
  rig.content.set(part, 19 * CLUSTER + 1024);
  const writing = rig.disk.write(part, 19 * CLUSTER + 1024);
  expect(await isPending(writing)).toBe(true);
  pointing.open();
  await Promise.all([writing, compacting]);
  expect(rig.recycler.referencesUpdated).toBeGreaterThan(0);
  await rig.expectSound();
});
