/** What clients and the recycler's rounds could do to each other where they meet. */
import { describe, expect, test } from 'vitest';
import { systemError } from '../../src/system-error.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Allocator } from '../../src/disk/allocator.js';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { State } from '../../src/recycler/cluster-map.js';
import { Moves } from '../../src/recycler/moves.js';
import { FakeClock } from '../device/fake-clock.js';
import { type GatedKind, GateDevice } from '../recycler/gate-device.js';
import { isPending, rigFor } from '../recycler/harness.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';

const CLUSTER = 4096;
const filled = (byte: number, lengthBytes = CLUSTER) => new Uint8Array(lengthBytes).fill(byte);
const EIO = systemError('EIO', 'write');

/** Fails the next write that touches [offset, offset + length). */
function failNextWrite(gate: GateDevice, offset: number, lengthBytes: number): void {
  const write = gate.write.bind(gate);
  gate.write = async (source, at) => {
    if (at >= offset + lengthBytes || at + source.length <= offset) return write(source, at);
    gate.write = write;
    throw EIO;
  };
}

describe('a write that is on its way to a hole of the host file when a round begins', () => {
  const LARGE = 65536;
  const change = { write: 1, zero: 2 } as const;

  test.each(Object.keys(change) as (keyof typeof change)[])(
    'moves with its cluster, which a %s had made',
    async (first) => {
      const bytes = image({ clusterBits: 16, virtualSize: 64 * LARGE, seed: 1 })
        .writeRange(0, 20)
        .build();
      const memory = new MemoryDevice(bytes, { canPunch: true });
      const gate = new GateDevice(memory);
      const disk = await Qcow2Disk.on(gate, { fillBytes: LARGE, clock: new FakeClock() });
      // One page of a new place: the rest of the cluster is a hole. As zeroes that keep their room, all of it is one.
      await disk.write(filled(1), 40 * LARGE);
      if (first === 'zero') await disk.writeZeroes(40 * LARGE, LARGE, { mayUnmap: false });
      await disk.discard(0, 10 * LARGE);
      await disk.flush();
      const { map } = disk.recycler!;
      const shut = gate.shut('write', map.lastCluster * LARGE, LARGE);
      const writing = disk.write(filled(0x77), 40 * LARGE + 8192);
      await shut.arrived;
      const compacting = disk.compactNow();
      expect(await isPending(compacting)).toBe(true);
      shut.open();
      await Promise.all([writing, compacting]);
      expect(disk.recycler!.referencesUpdated).toBeGreaterThan(0);
      const there = filled(0);
      await disk.read(there, 40 * LARGE + 8192);
      expect(there).toEqual(filled(0x77));
      await disk.close();
    },
  );
});

test('where a flush in the background fails, what is being copied keeps its places until the copy is done', async () => {
  const builder = image({ clusterBits: 12, virtualSize: 1024 * CLUSTER, seed: 1 });
  const { bytes, where } = builder.writeRange(0, 60).writeRange(520, 20).buildWithMap();
  const memory = new MemoryDevice(bytes, { canPunch: true });
  const gate = new GateDevice(memory);
  const clock = new FakeClock();
  const options = { compactAfterBytes: 2 ** 40, clock, fillBytes: 4 * CLUSTER };
  const disk = await Qcow2Disk.on(gate, options);
  await disk.discard(0, 20 * CLUSTER);
  await disk.flush();
  // A barrier is asked for, that comes 5 s later.
  await disk.write(filled(1), 70 * CLUSTER);
  await clock.sleep(0.1);
  const { map } = disk.recycler!;
  const holes = [...Array(map.clusterCount).keys()].filter((cluster) => map.is(cluster, State.junk));
  const shut = gate.shut('write', holes[0]! * CLUSTER, (holes.at(-1)! + 1 - holes[0]!) * CLUSTER);
  const compacting = disk.compactNow().catch(() => 0);
  await shut.arrived;
  // It changes a table, which the delayed flush cannot write.
  await disk.discard(60 * CLUSTER, CLUSTER);
  await disk.discard(30 * CLUSTER, CLUSTER);
  failNextWrite(gate, where('L2 active:0') * CLUSTER, CLUSTER);
  await clock.sleep(20);
  expect(disk.status()).toMatchObject({ failures: 1, failure: EIO });
  const writes = Array.from({ length: 24 }, (_, i) => disk.write(filled(0x55), (100 + i) * CLUSTER));
  await Promise.race([Promise.all(writes), isPending(Promise.all(writes))]);
  shut.open();
  await Promise.all([...writes, compacting]);
  for (let i = 0; i < writes.length; i++) {
    const there = filled(0);
    await disk.read(there, (100 + i) * CLUSTER);
    expect(there, `cluster ${i}`).toEqual(filled(0x55));
  }
  await disk.close();
  expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
});

test('to cancel all moves of a round takes one look at its slots, not one for each', () => {
  const count = 4096;
  let looks = 0;
  const offsets = new Proxy(
    Float64Array.from({ length: count }, (_, i) => 8 * i),
    {
      get(target, name) {
        if (typeof name === 'string' && /^\d+$/.test(name)) looks++;
        return Reflect.get(target, name, target) as unknown;
      },
    },
  );
  const from = (first: number) => Uint32Array.from({ length: count }, (_, i) => first + i);
  const moves = new Moves(from(100_000), from(10), { offsets, moves: from(0) }, () => false);
  for (let i = 0; i < count; i++) expect(moves.withDependants(i, 512)).toEqual(new Set([i]));
  expect(looks).toBeLessThanOrEqual(count);
});

describe('references of a round that many tables have', () => {
  const TABLES = 200;
  /** Two clusters under each of the tables, all of the first ones discarded. */
  async function scattered() {
    const builder = image({ clusterBits: 9, virtualSize: TABLES * 64 * 512, seed: 2 });
    for (let table = 0; table < TABLES; table++) builder.writeRange(table * 64, 2);
    const memory = new MemoryDevice(builder.build());
    const gate = new GateDevice(memory);
    const disk = await Qcow2Disk.on(gate, { clock: new FakeClock(), cacheBytes: 1 << 20 });
    for (let table = 0; table < TABLES; table++) await disk.discard(table * 64 * 512, 512);
    await disk.flush();
    return { memory, gate, disk };
  }

  test('are written some tables at a time: never are more than 64 locked, and all move in one round', async () => {
    const { memory, gate, disk } = await scattered();
    const { locks } = disk.recycler!;
    let most = 0;
    gate.onOperation = () => (most = Math.max(most, locks.heldCount));
    await disk.compactNow();
    expect(most).toBeGreaterThan(32);
    expect(most).toBeLessThanOrEqual(64);
    expect(disk.recycler!.map.countOf(State.junk)).toBe(0);
    await disk.close();
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  });

  test('flushes of clients get in between', async () => {
    const { gate, disk } = await scattered();
    const done: string[] = [];
    let flushing: Promise<void> | null = null;
    const { locks } = disk.recycler!;
    // Asked for while the first tables are locked.
    gate.onOperation = () => {
      if (locks.heldCount < 40) return;
      flushing ??= disk.flush().then(() => void done.push('flush'));
    };
    await disk.compactNow();
    done.push('compacted');
    if (flushing !== null) await (flushing as Promise<void>);
    expect(done).toEqual(['flush', 'compacted']);
    await disk.close();
  });
});

test('copies are made one at a time and little by little, so that requests get threads and processors', async () => {
  const LARGE = 65536;
  const bytes = image({ clusterBits: 16, virtualSize: 100 * LARGE, seed: 1 })
    .writeRange(0, 60)
    .build();
  const memory = new MemoryDevice(bytes);
  const gate = new GateDevice(memory);
  const disk = await Qcow2Disk.on(gate, { clock: new FakeClock() });
  await disk.discard(0, 30 * LARGE);
  await disk.flush();
  const write = gate.write.bind(gate);
  let [underWay, most, longest] = [0, 0, 0];
  gate.write = async (source, offset) => {
    most = Math.max(most, ++underWay);
    longest = Math.max(longest, source.length);
    await write(source, offset).finally(() => underWay--);
  };
  await disk.compactNow();
  expect(disk.recycler!.clustersMoved).toBe(30);
  expect(most).toBe(1);
  expect(longest).toBe(256 << 10);
  await disk.close();
});

describe('the pool', () => {
  test('is filled a little at a time: a write waits for one filling at most', async () => {
    const { bytes, where } = image({ clusterBits: 12, virtualSize: 400 * CLUSTER, seed: 1 })
      .writeRange(0, 200)
      .buildWithMap();
    const gate = new GateDevice(new MemoryDevice(bytes));
    const options = { keepErased: 1000, fillBytes: 4 * CLUSTER, clock: new FakeClock() };
    const disk = await Qcow2Disk.on(gate, options);
    const { map } = disk.recycler!;
    let most = 0;
    gate.onOperation = () => (most = Math.max(most, map.countOf(State.held) + map.countOf(State.erased)));
    await disk.discard(0, 150 * CLUSTER);
    await disk.flush();
    await options.clock.sleep(200);
    expect(disk.status()!.availableBytes).toBeGreaterThanOrEqual(150 * CLUSTER);
    expect(most).toBeLessThanOrEqual(4);
    expect(where('data active:0')).toBeGreaterThan(0);
    await disk.close();
  });

  test('that could not be counted is no pool: it is junk again, and used later', async () => {
    const { bytes } = image({ clusterBits: 12, virtualSize: 400 * CLUSTER, seed: 1 })
      .writeRange(0, 100)
      .buildWithMap();
    const memory = new MemoryDevice(bytes);
    const gate = new GateDevice(memory);
    const clock = new FakeClock();
    const disk = await Qcow2Disk.on(gate, { keepErased: 20, fillBytes: 40 * CLUSTER, clock });
    await disk.discard(0, 50 * CLUSTER);
    failNextWrite(gate, disk.recycler!.volume.image.refcounts.blocks[0]!, CLUSTER);
    const flushed = disk.flush().catch(() => undefined);
    await clock.sleep(20);
    await flushed;
    expect(disk.status()).toMatchObject({ failures: 1, availableBytes: 0, erasedBytes: 0 });
    disk.recycler!.assertConsistent();
    await clock.sleep(200);
    expect(disk.status()).toMatchObject({ failure: null, availableBytes: 20 * CLUSTER });
    const before = memory.lengthBytes;
    for (let i = 200; i < 250; i++) await disk.write(filled(1), i * CLUSTER);
    expect(memory.lengthBytes).toBe(before);
    await disk.close();
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  });

  test('goes to who waits for it, however often the rest is given back', async () => {
    const rig = await rigFor(
      image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 })
        .writeRange(0, 10)
        .build(),
    );
    const allocator = new Allocator(rig.recycler, CLUSTER);
    let taken: number[] | null = null;
    const allocating = allocator.allocate(3).then((clusters) => (taken = clusters));
    for (let i = 0; taken === null && i < 500; i++) await allocator.shrink(0);
    expect(taken).toHaveLength(3);
    await allocating;
  });
});

test('a step of a round that fails on the host is told, and nothing of it stays locked', async () => {
  for (const kind of ['read', 'write'] as const satisfies GatedKind[]) {
    const bytes = image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 })
      .writeRange(0, 40)
      .build();
    const gate = new GateDevice(new MemoryDevice(bytes));
    const disk = await Qcow2Disk.on(gate, { clock: new FakeClock(), fillBytes: CLUSTER });
    await disk.discard(0, 8 * CLUSTER);
    await disk.flush();
    const real = gate[kind].bind(gate);
    gate[kind] = () => Promise.reject(EIO);
    await expect(disk.compactNow()).rejects.toMatchObject({ code: 'IO' });
    gate[kind] = real;
    expect(disk.recycler!.locks.heldCount).toBe(0);
    expect(disk.status()).toMatchObject({ failures: 1, movesUnderWay: 0 });
    if (disk.failure === null) await disk.close();
  }
});
