/** Recycler contract, section 3: erasing junk. */
import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { State } from '../../src/recycler/cluster-map.js';
import { amountToErase, eraseInterval } from '../../src/recycler/eraser.js';
import { image } from '../support/image-builder.js';
import { bytesOf, census, clustersIn, rigFor, writesIn } from './harness.js';

const MIB = 1 << 20;

/** Junk in three stretches, none of it zero. */
function threeStretches() {
  const isJunk = (name: string) => name === 'junk';
  return image({ clusterBits: 9 })
    .writeRange(0, 8)
    .layout({
      junk: 9,
      arrange: (units) => {
        const junk = units.filter(({ name }) => isJunk(name));
        const other = units.filter(({ name }) => !isJunk(name));
        return [
          ...junk.slice(0, 2),
          ...other.slice(0, 3),
          ...junk.slice(2, 6),
          ...other.slice(3),
          ...junk.slice(6),
        ];
      },
    })
    .build();
}

describe('erasing', () => {
  test('C15: what is being erased is held, and no cluster lock is taken', async () => {
    const rig = await rigFor(threeStretches());
    const before = clustersIn(rig, State.junk);
    const gate = rig.gate.shut('write');
    const erasing = rig.recycler.erase(7, false);
    await gate.arrived;
    expect(clustersIn(rig, State.held)).toEqual(before.slice(0, 7));
    expect(clustersIn(rig, State.junk)).toEqual(before.slice(7));
    expect(rig.recycler.locks.heldCount).toBe(0);
    // Nor is the erased range refused to who holds a lock on it: nobody can refer to it.
    gate.open();
    await erasing;
    expect(clustersIn(rig, State.erased)).toEqual(before.slice(0, 7));
    rig.expectUnharmed();
  });

  test('C16: a step erases min(junk, keep_erased - (erased + available))', async () => {
    const rig = await rigFor(threeStretches());
    const { map } = rig.volume;
    const expected = (keepErased: number) => {
      const { junk, erased, available } = census(rig);
      return Math.max(0, Math.min(junk, keepErased - (erased + available)));
    };
    const check = () => {
      for (let keep = 0; keep <= 12; keep++) expect(amountToErase(map, keep)).toBe(expected(keep));
    };
    check();
    expect(amountToErase(map, 4)).toBe(4);
    await rig.recycler.erase(amountToErase(map, 4), false);
    expect(amountToErase(map, 4)).toBe(0);
    check();
    await rig.recycler.flush();
    expect(amountToErase(map, 4)).toBe(0);
    expect(amountToErase(map, 3)).toBe(0);
    check();
    await rig.recycler.erase(amountToErase(map, 100), false);
    expect(census(rig)).toMatchObject({ junk: 0, erased: 5, available: 4 });
    check();
  });

  const sizes = [512, 65536, MIB, 2 * MIB];
  const intervals = sizes.flatMap((clusterBytes) => {
    const k = Math.max(1, Math.floor(MIB / clusterBytes));
    const counts = [...new Set([0, 1, k - 1, k, k + 1, 2 * k])];
    return counts.map((count) => ({ clusterBytes, count, k }));
  });

  test.each(intervals)(
    'C17: $count clusters of $clusterBytes bytes go out in writes of $k clusters and a remainder',
    async ({ clusterBytes, count, k }) => {
      const offset = 3 * clusterBytes;
      const total = count * clusterBytes;
      const recorder = new RecordingDevice(new MemoryDevice(new Uint8Array(offset + total + 512).fill(0xaa)));
      await eraseInterval(recorder, offset, count, clusterBytes, false);
      const writes = writesIn(recorder.log).map((write) => [write.offset, write.bytes.length]);
      // A cluster of 2 MiB takes two writes of the one shared buffer of 1 MiB.
      const perWrite = Math.min(MIB, k * clusterBytes);
      const expected: [number, number][] = [];
      for (let at = 0; at < total; at += perWrite) {
        expected.push([offset + at, Math.min(perWrite, total - at)]);
      }
      expect(writes).toEqual(expected);
      const after = new Uint8Array(offset + total + 512);
      await recorder.read(after, 0);
      expect(after.subarray(0, offset).every((byte) => byte === 0xaa)).toBe(true);
      expect(after.subarray(offset, offset + total).every((byte) => byte === 0)).toBe(true);
      expect(after.subarray(offset + total).every((byte) => byte === 0xaa)).toBe(true);
    },
  );

  test('C17: intervals go out one after the other, lowest first', async () => {
    const rig = await rigFor(threeStretches());
    await rig.recycler.erase(9, false);
    const offsets = writesIn(rig.recorder.log).map(({ offset }) => offset);
    expect(offsets).toHaveLength(3);
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
  });

  test('C17: the cluster that the file ends in is erased without making the file longer', async () => {
    const bytes = image().writeRange(0, 3).layout({ junkAtEnd: 2 }).build();
    const rig = await rigFor(bytes.subarray(0, bytes.length - 200));
    await rig.recycler.erase(2, false);
    expect(rig.memory.lengthBytes).toBe(bytes.length - 200);
    expect(
      rig.memory
        .bytes()
        .subarray(-824)
        .every((byte) => byte === 0),
    ).toBe(true);
  });

  test('C17: what is a hole or reads as zeroes already is not written', async () => {
    const rig = await rigFor(threeStretches());
    const [first, second, third] = clustersIn(rig, State.junk);
    await rig.memory.punch(first! * 512, 512);
    await rig.memory.write(new Uint8Array(512), third! * 512);
    expect(await rig.recycler.erase(3, false)).toMatchObject({ clusters: 3, holes: 1 });
    expect(writesIn(rig.recorder.log).map(({ offset }) => offset)).toEqual([second! * 512]);
  });

  test('C18: whichever write fails, all are junk again and the error goes up', async () => {
    for (let failAt = 1; failAt <= 3; failAt++) {
      for (const mode of ['fail', 'short'] as const) {
        const rig = await rigFor(threeStretches(), { fault: { failAt, kinds: ['write'], mode } });
        const before = census(rig);
        await expect(rig.recycler.erase(9, false)).rejects.toMatchObject({ code: 'EIO' });
        expect(census(rig)).toEqual(before);
        expect(rig.recycler.clustersErased).toBe(0);
        expect(rig.recycler.locks.heldCount).toBe(0);
        // The first failure ended it.
        expect(writesIn(rig.recorder.log)).toHaveLength(failAt);
        // Nothing became available behind the caller's back, and another attempt can be made.
        await rig.recycler.flush();
        expect(census(rig)).toEqual(before);
        await rig.recycler.erase(9, false);
        await rig.recycler.flush();
        expect(census(rig)).toMatchObject({ junk: 0, available: 9 });
        rig.expectUnharmed();
      }
    }
  });

  test('C18: a punch that fails is no different', async () => {
    const rig = await rigFor(threeStretches(), { fault: { failAt: 2, kinds: ['punch'], code: 'ENOSPC' } });
    const before = census(rig);
    await expect(rig.recycler.erase(9, true)).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(census(rig)).toEqual(before);
  });

  test('C18: success makes the whole set erased, and zero', async () => {
    for (const punch of [false, true]) {
      const rig = await rigFor(threeStretches());
      const junk = clustersIn(rig, State.junk);
      await rig.recycler.erase(9, punch);
      expect(clustersIn(rig, State.erased)).toEqual(junk);
      for (const cluster of junk) expect(bytesOf(rig, cluster)).toEqual(new Uint8Array(512));
      expect(writesIn(rig.recorder.log)).toHaveLength(punch ? 0 : 3);
    }
  });

  test('C19: a barrier that began before the zeroes were written does not make them available', async () => {
    const rig = await rigFor(threeStretches());
    await rig.recycler.erase(2, false);
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    await rig.recycler.erase(3, false);
    gate.open();
    await flushing;
    expect(census(rig)).toMatchObject({ available: 2, erased: 3 });
    await rig.recycler.flush();
    expect(census(rig)).toMatchObject({ available: 5, erased: 0 });
  });

  test('C19: nor does one that began while they were being written', async () => {
    const rig = await rigFor(threeStretches());
    const gate = rig.gate.shut('write');
    const erasing = rig.recycler.erase(3, false);
    await gate.arrived;
    await rig.recycler.flush();
    gate.open();
    await erasing;
    expect(census(rig)).toMatchObject({ available: 0, erased: 3 });
  });

  test('a leaked cluster is available only with its count at zero', async () => {
    const rig = await rigFor(image().writeRange(0, 4).layout({ leaks: 5 }).build());
    await rig.recycler.erase(5, false);
    await rig.recycler.writeCounts();
    await rig.recycler.flush();
    for (const cluster of clustersIn(rig, State.available)) {
      expect(rig.volume.image.refcounts.get(cluster)).toBe(0);
    }
    expect(rig.volume.image.refcounts.hasDirty).toBe(false);
  });
});
