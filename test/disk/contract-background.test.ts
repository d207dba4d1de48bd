/** The recycler in the background of a live disk: what it does on its own (recycler contract C10, C52 to C61, C63 to C68). */
import { describe, expect, test } from 'vitest';
import { type Fault, FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { planLive } from '../../src/disk/background/live-plan.js';
import { type DeviceDiskOptions, Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { State } from '../../src/recycler/cluster-map.js';
import { FakeClock } from '../device/fake-clock.js';
import { GateDevice } from '../recycler/gate-device.js';
import { isPending } from '../recycler/harness.js';
import { type ImageBuilder, image } from '../support/image-builder.js';
import { crashStates } from '../support/crash-simulator.js';
import { inspect } from '../support/oracle.js';
import { contentOf, diskImage, findIn } from './model-run.js';

const CLUSTER = 4096;

interface Rig {
  memory: MemoryDevice;
  recorder: RecordingDevice;
  gate: GateDevice;
  clock: FakeClock;
  disk: Qcow2Disk;
  /** Some seconds in which nobody asks for anything. */
  rest: (seconds?: number) => Promise<void>;
}

function sparse(): ImageBuilder {
  const builder = image({ clusterBits: 12, virtualSize: 64 * CLUSTER, seed: 5 });
  return builder.writeRange(0, 40);
}

async function rigOf(
  bytes: Uint8Array,
  options: DeviceDiskOptions = {},
  fault: Fault = {},
): Promise<Rig & { faulty: FaultDevice }> {
  const memory = new MemoryDevice(bytes);
  const faulty = new FaultDevice(memory, fault);
  const recorder = new RecordingDevice(faulty);
  const gate = new GateDevice(recorder);
  const clock = new FakeClock();
  const disk = await Qcow2Disk.on(gate, { clock, fillBytes: 4 * CLUSTER, ...options });
  return { memory, faulty, recorder, gate, clock, disk, rest: (seconds = 200) => clock.sleep(seconds) };
}

const clusters = ({ memory }: Rig) => memory.lengthBytes / CLUSTER;
const mapOf = ({ disk }: Rig) => disk.recycler!.map;

describe('C52', () => {
  test('a pool without compaction: it is filled from junk, and nothing moves', async () => {
    const rig = await rigOf(sparse().build(), { keepErased: 6 });
    const before = clusters(rig);
    await rig.disk.discard(0, 10 * CLUSTER);
    await rig.rest();
    expect(rig.disk.status()).toMatchObject({ availableBytes: 6 * CLUSTER, movesUnderWay: 0, failure: null });
    expect(clusters(rig)).toBe(before);
    expect(rig.disk.recycler!.referencesUpdated).toBe(0);
  });

  test('compaction without a pool: the file gets as short as it can', async () => {
    const rig = await rigOf(sparse().build(), { compactAfterBytes: 2 * CLUSTER });
    const before = clusters(rig);
    await rig.disk.discard(0, 2 * CLUSTER);
    await rig.rest();
    expect(clusters(rig)).toBe(before);
    await rig.disk.discard(2 * CLUSTER, CLUSTER);
    await rig.rest();
    expect(clusters(rig)).toBe(before - 3);
    expect(rig.disk.status()).toMatchObject({ junkBytes: 0, bytesReclaimed: 3 * CLUSTER });
  });

  test('with neither, or with 0, nothing is done on its own', async () => {
    for (const options of [{}, { keepErased: 0, compactAfterBytes: 0 }]) {
      const rig = await rigOf(sparse().layout({ junk: 9 }).build(), options);
      await rig.rest();
      expect(rig.recorder.log).toEqual([]);
    }
  });
});

test('C10: whenever clusters are freed, the wake-up is not lost', async () => {
  for (let turns = 0; turns < 60; turns++) {
    const rig = await rigOf(sparse().layout({ junk: 5 }).build(), { keepErased: 2, compactAfterBytes: 1 });
    await rig.disk.discard(0, CLUSTER);
    for (let turn = 0; turn < turns * 4; turn++) await Promise.resolve();
    await rig.disk.discard(7 * CLUSTER, 2 * CLUSTER);
    await rig.rest();
    const map = mapOf(rig);
    expect(map.countOf(State.leaving) + map.countOf(State.junk), `after ${turns * 4} turns`).toBe(0);
    expect(map.countOf(State.available)).toBe(2);
  }
});

test('C54: while a guest trims the pool is filled all the same, and compaction begins in the end', async () => {
  const rig = await rigOf(sparse().build(), { keepErased: 3, compactAfterBytes: 1 });
  for (let cluster = 0; cluster < 8; cluster++) {
    await rig.disk.discard(cluster * CLUSTER, CLUSTER);
    await rig.disk.flush();
    await rig.rest(4.5);
  }
  expect(rig.disk.status()!.availableBytes).toBeGreaterThan(0);
  expect(rig.disk.recycler!.referencesUpdated).toBe(0);
  for (let cluster = 8; cluster < 20; cluster++) {
    await rig.disk.discard(cluster * CLUSTER, CLUSTER);
    await rig.disk.flush();
    await rig.rest(4.5);
  }
  expect(rig.disk.recycler!.referencesUpdated).toBeGreaterThan(0);
});

test('C55: a step copies one round and no more; the barriers are those of the delayed flush', async () => {
  const rig = await rigOf(sparse().build(), { compactAfterBytes: 1, roundBytes: 2 * CLUSTER });
  await rig.disk.discard(0, 6 * CLUSTER);
  await rig.rest();
  const kinds = rig.recorder.log.map(({ kind }) => kind);
  const flushes = kinds.filter((kind) => kind === 'flush').length;
  // Three rounds of two moves, each with two barriers; those of the discard and of the first change.
  expect(rig.disk.recycler!.referencesUpdated).toBe(6);
  expect(flushes).toBeGreaterThanOrEqual(3 * 2 + 2);
  expect(flushes).toBeLessThanOrEqual(3 * 2 + 6);
});

describe('C57', () => {
  test('without clients the file ends with its last cluster, and that is the least there can be', async () => {
    for (let seed = 1; seed <= 25; seed++) {
      const { bytes, base, description } = diskImage(seed);
      const rig = await rigOf(bytes, { compactAfterBytes: 1, findBacking: findIn(base) });
      const content = await contentOf(bytes, base);
      await rig.rest(2000);
      const { map, volume, unfinishedMoves } = rig.disk.recycler!;
      const what = `seed ${seed}: ${description}`;
      expect(rig.disk.failure, what).toBeNull();
      expect(unfinishedMoves, what).toBe(false);
      expect(await planLive(volume, 1), what).toBeNull();
      expect(map.clusterCount, what).toBe(map.lastCluster + 1);
      expect(inspect(rig.memory.bytes()).corruptions, what).toEqual([]);
      expect(Buffer.compare(await contentOf(rig.memory.bytes(), base), content), what).toBe(0);
    }
  });

  test('an ordinary image has no junk left, refcount blocks that lie in their ranges included', async () => {
    // Clusters of 512 bytes with counts of 64 bits: a block for each 64 clusters.
    const bytes = image({ refcountOrder: 6, virtualSize: 600 * 512, seed: 3 })
      .writeRange(0, 500)
      .build();
    const rig = await rigOf(bytes, { compactAfterBytes: 1 });
    await rig.disk.discard(0, 400 * 512);
    await rig.rest(2000);
    expect(rig.disk.status()).toMatchObject({ junkBytes: 0, availableBytes: 0, movesUnderWay: 0 });
    expect(rig.memory.lengthBytes).toBeLessThan(160 * 512);
    expect(inspect(rig.memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  });

  test('the pool is filled as far as the junk went, and stays at the end of the file', async () => {
    const rig = await rigOf(sparse().layout({ junk: 9 }).build(), { compactAfterBytes: 1, keepErased: 4 });
    await rig.rest();
    expect(rig.disk.status()).toMatchObject({ junkBytes: 0, availableBytes: 4 * CLUSTER });
  });
});

test('C57: at rest nothing is done again and again, where the pool is at the end of the file too', async () => {
  // A refcount block describes 64 clusters: the pool reaches into the range of the last one.
  for (const keepErased of [0, 5, 40, 80]) {
    const bytes = image({ refcountOrder: 6, virtualSize: 600 * 512, seed: 3 })
      .writeRange(0, 200)
      .build();
    const rig = await rigOf(bytes, { compactAfterBytes: 1, keepErased });
    await rig.disk.discard(0, 150 * 512);
    await rig.rest(2000);
    const { length } = rig.recorder.log;
    await rig.rest(2000);
    expect(rig.recorder.log.slice(length)).toEqual([]);
    expect(rig.disk.status()).toMatchObject({ junkBytes: 0, availableBytes: keepErased * 512 });
    await rig.disk.compactNow();
    expect(rig.recorder.log.slice(length).filter(({ kind }) => kind !== 'flush')).toEqual([]);
  }
});

describe('C58', () => {
  const FAULTS: Record<string, Fault> = {
    'a write': { kinds: ['write'] },
    'a read': { kinds: ['read'] },
    'a barrier': { kinds: ['flush'] },
    'a truncation': { kinds: ['truncate'] },
    'a full host': { kinds: ['write'], code: 'ENOSPC', mode: 'short' },
  };

  test.each(Object.entries(FAULTS))(
    '%s that fails is shown, harms nothing, and does not end the work',
    async (_, fault) => {
      const bytes = sparse().layout({ junk: 12 }).snapshot('a').write(3).build();
      const content = await contentOf(bytes, null);
      const opened = await rigOf(bytes, {}, fault);
      const before = opened.faulty.operations;
      for (let failAt = before + 1; ; failAt++) {
        const rig = await rigOf(bytes, { compactAfterBytes: 1, keepErased: 2 }, { ...fault, failAt });
        let shown: Error | null = null;
        for (let looks = 0; looks < 60; looks++) {
          await rig.rest(1);
          shown ??= rig.disk.status()!.failure;
        }
        if (rig.faulty.failures === 0) {
          expect(failAt).toBeGreaterThan(before + 1);
          return;
        }
        expect(shown, `operation ${failAt}`).not.toBeNull();
        expect(inspect(rig.memory.bytes()).corruptions).toEqual([]);
        expect(Buffer.compare(await contentOf(rig.memory.bytes(), null), content)).toBe(0);
        if (rig.disk.failure !== null || fault.kinds!.includes('flush')) {
          // What is on disk is not certain any more: the client's next request hears of it.
          await expect(rig.disk.write(new Uint8Array(512), 0)).rejects.toMatchObject({
            code: expect.stringMatching(/^(IO|NO_SPACE)$/) as string,
          });
          continue;
        }
        await rig.rest();
        expect(rig.disk.status(), `operation ${failAt}`).toMatchObject({ failure: null, junkBytes: 0 });
        await rig.disk.close();
        expect(inspect(rig.memory.bytes()).leaks).toBe(0);
      }
    },
  );

  test('what was asked for fails by a failed copy', async () => {
    const bytes = sparse().layout({ junk: 6, shuffle: true }).build();
    const opened = await rigOf(bytes, {}, { kinds: ['write'] });
    const rig = await rigOf(bytes, {}, { kinds: ['write'], failAt: opened.faulty.operations + 2 });
    await expect(rig.disk.compactNow()).rejects.toMatchObject({ code: 'IO' });
    await rig.disk.compactNow();
    expect(rig.disk.status()).toMatchObject({ junkBytes: 0, failure: null });
  });

  test('closed at any moment, the step at hand is finished and nothing comes after', async () => {
    const bytes = sparse().layout({ junk: 12, shuffle: true }).build();
    const content = await contentOf(bytes, null);
    for (let turns = 0; turns < 400; turns += 7) {
      const rig = await rigOf(bytes, { keepErased: 3, roundBytes: 4 * CLUSTER });
      const compacting = rig.disk.compactNow();
      for (let turn = 0; turn < turns; turn++) await Promise.resolve();
      await rig.disk.close();
      const { length } = rig.recorder.log;
      await compacting;
      await rig.rest();
      expect(rig.recorder.log).toHaveLength(length);
      expect(inspect(rig.memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
      expect(Buffer.compare(await contentOf(rig.memory.bytes(), null), content)).toBe(0);
    }
  });
});

test('C61: in every crash state of rounds in the background the image is valid', async () => {
  for (const keepErased of [0, 2]) {
    const bytes = sparse().layout({ shuffle: true, junk: 8 }).snapshot('a').write(1).build();
    const options = { compactAfterBytes: 1, roundBytes: 3 * CLUSTER, keepErased };
    const rig = await rigOf(bytes, options);
    await rig.disk.discard(1 * CLUSTER, CLUSTER);
    await rig.disk.write(new Uint8Array(6 * CLUSTER).fill(7), 50 * CLUSTER);
    await rig.disk.flush();
    await rig.disk.discard(50 * CLUSTER, 5 * CLUSTER);
    await rig.rest(3);
    await rig.disk.discard(55 * CLUSTER, CLUSTER);
    await rig.rest(100);
    expect(rig.disk.recycler!.referencesUpdated).toBeGreaterThan(1);
    let states = 0;
    for (const { label, bytes: state } of crashStates(bytes, rig.recorder.log, {
      seed: 1,
      subsetsPerWindow: 60,
    })) {
      states++;
      expect(inspect(state).corruptions, label).toEqual([]);
    }
    expect(states).toBeGreaterThan(100);
  }
});

test('C60: what a truncation takes from the pool leaves no count behind', async () => {
  const rig = await rigOf(sparse().layout({ junkAtEnd: 10 }).build(), { fillBytes: 8 * CLUSTER });
  // Fills the pool, from the end of the file too.
  await rig.disk.write(new Uint8Array(CLUSTER).fill(1), 50 * CLUSTER);
  await rig.disk.flush();
  await rig.disk.compactNow();
  expect(rig.disk.status()).toMatchObject({ junkBytes: 0, availableBytes: 0 });
  // Without a closing, as after a crash.
  expect(inspect(rig.memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  await rig.disk.writeZeroes(0, 4 * CLUSTER);
  await rig.disk.write(new Uint8Array(9 * CLUSTER).fill(2), 50 * CLUSTER);
  await rig.disk.close();
  expect(inspect(rig.memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
});

test('C63: what a client reads does not move meanwhile, and all else does', async () => {
  const { bytes, where } = sparse().buildWithMap();
  const rig = await rigOf(bytes);
  await rig.disk.discard(0, 4 * CLUSTER);
  await rig.disk.flush();
  const last = [...Array(40).keys()].reduce(
    (a, b) => (where(`data active:${b}`) > where(`data active:${a}`) ? b : a),
    4,
  );
  const shut = rig.gate.shut('read', where(`data active:${last}`) * CLUSTER, 512);
  const target = new Uint8Array(512);
  const reading = rig.disk.read(target, last * CLUSTER);
  await shut.arrived;
  const { map } = rig.disk.recycler!;
  const compacting = rig.disk.compactNow();
  // The copy of the cluster reads it, too: beside the reader.
  expect(await isPending(compacting)).toBe(true);
  shut.open();
  await reading;
  await compacting;
  expect(map.countOf(State.junk)).toBe(0);
  expect(target).toEqual((await contentOf(bytes, null)).subarray(last * CLUSTER, last * CLUSTER + 512));
});

test('C65: a write to a cluster that moves cancels its move, and is what is read afterwards', async () => {
  const bytes = sparse().build();
  for (let turns = 0; turns < 200; turns += 3) {
    const rig = await rigOf(bytes);
    await rig.disk.discard(0, 4 * CLUSTER);
    await rig.disk.flush();
    const compacting = rig.disk.compactNow();
    for (let turn = 0; turn < turns; turn++) await Promise.resolve();
    const fresh = new Uint8Array(36 * CLUSTER).fill(turns);
    await rig.disk.write(fresh, 4 * CLUSTER);
    await compacting;
    await rig.disk.close();
    const content = await contentOf(rig.memory.bytes(), null);
    expect(Buffer.compare(content.subarray(4 * CLUSTER, 40 * CLUSTER), fresh)).toBe(0);
    expect(inspect(rig.memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  }
});

test('C68: without `discard` nothing gives up clusters, and a discard is refused', async () => {
  const rig = await rigOf(sparse().build(), { discard: false });
  await expect(rig.disk.discard(0, CLUSTER)).rejects.toMatchObject({ code: 'USAGE' });
  expect(rig.recorder.log).toEqual([]);
  const live = mapOf(rig).countOf(State.live);
  await rig.disk.writeZeroes(0, 4 * CLUSTER);
  await rig.disk.flush();
  expect(mapOf(rig).countOf(State.live)).toBe(live);
  const readOnly = await Qcow2Disk.on(new MemoryDevice(sparse().build()), { readOnly: true });
  await expect(readOnly.discard(0, CLUSTER)).rejects.toThrow(/reading only/);
  await expect(readOnly.compactNow()).rejects.toThrow(/reading only/);
  expect(readOnly.status()).toBeNull();
});
