/** What clients and the recycler's rounds could do to each other where they meet. */
import { describe, expect, test } from 'vitest';
import { systemError } from '../../src/system-error.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Allocator } from '../../src/disk/allocator.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { type DeviceDiskOptions, Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { State } from '../../src/recycler/cluster-map.js';
import { Moves } from '../../src/recycler/moves.js';
import { FakeClock } from '../device/fake-clock.js';
import { type GatedKind, GateDevice } from '../recycler/gate-device.js';
import { inOrder, isPending, rigFor } from '../recycler/harness.js';
import { crashStates } from '../support/crash-simulator.js';
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

  test('is made of the junk that lies first, also of what became junk behind the last filling', async () => {
    const rig = await rigFor(
      image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 })
        .writeRange(0, 10)
        .layout({ gap: 8, arrange: inOrder('L1', 'L2', 'junk', 'data') })
        .build(),
    );
    const allocator = new Allocator(rig.recycler, 4 * CLUSTER);
    const first = await allocator.allocate(4);
    expect(first.map((cluster) => cluster - first[0]!)).toEqual([0, 1, 2, 3]);
    rig.recycler.giveBack(first.slice(0, 2));
    expect(await allocator.allocate(2)).toEqual(first.slice(0, 2));
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

describe('the throttle', () => {
  /** All that is left to move is a refcount block; a client is at work. */
  async function slow(options: DeviceDiskOptions = {}) {
    const arrange = inOrder('L1', 'L2', 'refcount table', 'data', 'junk', 'refcount block');
    const { bytes, where } = image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 })
      .writeRange(0, 20)
      .layout({ gap: 3, arrange })
      .buildWithMap();
    const gate = new GateDevice(new MemoryDevice(bytes));
    const disk = await Qcow2Disk.on(gate, { backgroundBytesPerSecond: 1, fillBytes: CLUSTER, ...options });
    const shut = gate.shut('read', where('data active:0') * CLUSTER, CLUSTER);
    const reading = disk.read(filled(0), 0);
    await shut.arrived;
    return { disk, shut, reading };
  }

  test('holds up no client that needs a cluster', async () => {
    const { disk, shut, reading } = await slow();
    const compacting = disk.compactNow();
    expect(await isPending(compacting)).toBe(true);
    await disk.write(filled(1), 40 * CLUSTER);
    shut.open();
    await reading;
    await disk.close();
    await compacting;
  });

  test('is passed before clients are kept from clusters, and not once more meanwhile', async () => {
    const clock = new FakeClock();
    const { disk, shut, reading } = await slow({ clock, backgroundBytesPerSecond: CLUSTER });
    const before = clock.now();
    await disk.compactNow();
    expect(disk.recycler!.clustersMoved).toBe(1);
    // As much as four blocks may take, but for the burst.
    expect(clock.now() - before).toBeGreaterThan(3);
    expect(clock.now() - before).toBeLessThanOrEqual(4);
    shut.open();
    await reading;
    await disk.close();
  });

  test('ends with the disk, whose requests may wait for what it holds back', async () => {
    const { disk, shut, reading } = await slow();
    const compacting = disk.compactNow();
    expect(await isPending(compacting)).toBe(true);
    const closing = disk.close();
    await compacting;
    shut.open();
    await Promise.all([reading, closing]);
  });
});

describe('a compaction that has begun', () => {
  async function discarding(options: DeviceDiskOptions) {
    const clock = new FakeClock();
    const bytes = image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 })
      .writeRange(0, 40)
      .build();
    const memory = new MemoryDevice(bytes);
    const disk = await Qcow2Disk.on(memory, { clock, fillBytes: CLUSTER, ...options });
    await disk.discard(0, 20 * CLUSTER);
    await disk.flush();
    return { clock, memory, disk };
  }

  test('goes on to the end, and does not stop at the junk that it began for', async () => {
    const { clock, disk } = await discarding({ compactAfterBytes: 15 * CLUSTER, roundBytes: 2 * CLUSTER });
    await clock.sleep(500);
    expect(disk.status()).toMatchObject({ junkBytes: 0, isCompacting: false });
    // As much as before is none that anybody waits for.
    await disk.discard(20 * CLUSTER, 10 * CLUSTER);
    await clock.sleep(500);
    expect(disk.status()).toMatchObject({ junkBytes: 10 * CLUSTER, isCompacting: false });
    await disk.close();
  });

  test('begins, though a guest that writes empties the pool again and again', async () => {
    const clock = new FakeClock();
    const builder = image({ clusterBits: 12, virtualSize: 1200 * CLUSTER, seed: 5 });
    const memory = new MemoryDevice(builder.writeRange(0, 600).build());
    const options = { clock, fillBytes: CLUSTER, keepErased: 4, compactAfterBytes: 1 };
    const disk = await Qcow2Disk.on(memory, options);
    await disk.discard(0, 500 * CLUSTER);
    await disk.flush();
    // A cluster each time that it looks, and an older one is given up.
    for (let round = 0; clock.now() < 1060; round++) {
      const at = (nth: number) => (650 + (nth % 500)) * CLUSTER;
      await disk.write(filled(1), at(round));
      await disk.discard(at(round + 400), CLUSTER);
      await clock.sleep(0.02);
    }
    expect(disk.recycler!.clustersMoved).toBeGreaterThan(0);
    await disk.close();
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  });

  test('waits for no delayed barrier while clients rest', async () => {
    const { clock, disk } = await discarding({ compactAfterBytes: 1, roundBytes: CLUSTER });
    // Two looks at the junk, 5 s apart, and then twenty rounds.
    await clock.sleep(12);
    expect(disk.status()).toMatchObject({ junkBytes: 0, isCompacting: false, clustersMoved: 20 });
    await disk.close();
  });
});

describe('what holds the end of the file', () => {
  const layout = (...order: string[]) =>
    image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 })
      .writeRange(0, 20)
      .layout({ gap: 8, arrange: inOrder(...order) });

  test('is a refcount table that has grown there: it goes to the front', async () => {
    const { bytes, where } = layout(
      'L1',
      'L2',
      'data',
      'refcount block',
      'junk',
      'refcount table',
    ).buildWithMap();
    const memory = new MemoryDevice(bytes);
    const gate = new GateDevice(memory);
    const recorder = new RecordingDevice(gate);
    const disk = await Qcow2Disk.on(recorder, { clock: new FakeClock() });
    const place = where('refcount table');
    expect(await disk.compactNow()).toBe(8 * CLUSTER);
    expect(disk.recycler!.volume.image.refcounts.tableOffset).toBeLessThan(place * CLUSTER);
    expect(disk.status()).toMatchObject({ junkBytes: 0 });
    await disk.write(filled(1), 50 * CLUSTER);
    await disk.close();
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
    for (const { label, bytes: state } of crashStates(bytes, recorder.log, { seed: 7, subsetsPerWindow: 40 }))
      expect(inspect(state).corruptions, label).toEqual([]);
  });

  test.each(['read', 'write', 'flush'] as const)(
    'stays where it is when a %s fails, and a header that is not certain ends all',
    async (kind) => {
      const bytes = layout('L1', 'L2', 'data', 'refcount block', 'junk', 'refcount table').build();
      for (let nth = 1; nth < 8; nth++) {
        const memory = new MemoryDevice(bytes);
        const gate = new GateDevice(memory);
        const disk = await Qcow2Disk.on(gate, { clock: new FakeClock() });
        const real = gate[kind].bind(gate) as (...args: unknown[]) => Promise<void>;
        let count = 0;
        Object.assign(gate, {
          [kind]: (...args: unknown[]) => (++count === nth ? Promise.reject(EIO) : real(...args)),
        });
        await disk.compactNow().catch(() => 0);
        Object.assign(gate, { [kind]: real });
        expect(inspect(memory.bytes()).corruptions).toEqual([]);
        disk.recycler!.assertConsistent();
        if (disk.failure === null) {
          await disk.compactNow();
          await disk.close();
          expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
        } else await expect(disk.close()).rejects.toThrow();
      }
    },
  );

  test('is an L1 table: what lies before it is not copied for nothing, and the status tells', async () => {
    const { bytes, where } = layout('refcount', 'L2', 'junk', 'data', 'L1').buildWithMap();
    const disk = await Qcow2Disk.on(new MemoryDevice(bytes), { clock: new FakeClock() });
    expect(await disk.compactNow()).toBe(0);
    expect(disk.status()).toMatchObject({
      ...{ clustersMoved: 0, junkBytes: 8 * CLUSTER, fixedBytes: (where('L1') + 1) * CLUSTER },
    });
    await disk.close();
  });

  test('is a table that the disk itself has made longer: it goes without the room that it has for more', async () => {
    const bytes = image({ refcountOrder: 6, virtualSize: 6000 * 512, seed: 3 })
      .writeRange(0, 10)
      .build();
    const memory = new MemoryDevice(bytes);
    const disk = await Qcow2Disk.on(memory, { clock: new FakeClock() });
    for (let cluster = 10; cluster < 5900; cluster += 100) await disk.write(filled(1, 51_200), cluster * 512);
    await disk.flush();
    const { refcounts } = disk.recycler!.volume.image;
    const before = refcounts.tableClusters;
    await disk.discard(10 * 512, 5990 * 512 - 512);
    await disk.compactNow();
    expect(refcounts.tableClusters).toBeLessThan(before);
    expect(refcounts.blocks).toHaveLength(refcounts.tableClusters * 64);
    // L2 tables without an entry stay.
    expect(memory.lengthBytes).toBeLessThan(200 * 512);
    await disk.close();
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  });
});

test('who asks while one compaction waits for its turn shares it', async () => {
  const bytes = image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 })
    .writeRange(0, 40)
    .build();
  const memory = new MemoryDevice(bytes);
  const recorder = new RecordingDevice(memory);
  const disk = await Qcow2Disk.on(recorder, { clock: new FakeClock() });
  await disk.discard(0, 20 * CLUSTER);
  await disk.flush();
  const asked = Array.from({ length: 50 }, () => disk.compactNow());
  const gains = await Promise.all(asked);
  // The first gains all, the second nothing, and the others are the second.
  expect(gains[0]).toBe(20 * CLUSTER);
  expect(gains.slice(1).every((gain) => gain === gains[1])).toBe(true);
  const { flushes } = recorder;
  expect(flushes).toBeLessThan(20);
  await disk.close();
});
