/** Recycler contract, section 8: cutting the file. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { State } from '../../src/recycler/cluster-map.js';
import { image } from '../support/image-builder.js';
import { compareGuestView, guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import {
  applied,
  bytesOf,
  census,
  inOrder,
  isPending,
  plannedMoves,
  rigFor,
  runRound,
  runToFixpoint,
} from './harness.js';

function junkAtBothEnds() {
  return image({ clusterBits: 9 })
    .writeRange(0, 8)
    .layout({ gap: 12, junkAtEnd: 6, arrange: inOrder('junk') });
}

describe('truncation', () => {
  test('C59: called after every single step of every round, it cuts off nothing that is needed', async () => {
    let cuts = 0;
    for (let seed = 200; seed < 230; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 120, compressed: false });
      const rig = await rigFor(bytes);
      try {
        await runToFixpoint(rig, async () => {
          const { map } = rig.volume;
          const last = map.lastCluster;
          if (await rig.recycler.truncate()) cuts++;
          expect(map.clusterCount).toBe(last + 1);
          expect(rig.memory.lengthBytes).toBeLessThanOrEqual((last + 1) * rig.clusterBytes);
          rig.expectUnharmed();
        });
      } catch (error) {
        throw new Error(description, { cause: error });
      }
      const { leaks, clusterCount } = inspect(rig.memory.bytes());
      const expected = {
        leaks: 0,
        clusterCount: minimalClusterCount(rig.memory.bytes(), { emptyTables: 'kept' }),
      };
      expect({ leaks, clusterCount }, description).toEqual(expected);
    }
    expect(cuts).toBeGreaterThan(30);
  });

  test('C59: sources are in the file until their moves are complete', async () => {
    const rig = await rigFor(junkAtBothEnds().build());
    const moves = await plannedMoves(rig);
    const contents = [...moves.sources].map((source) => bytesOf(rig, source));
    await runRound(rig, moves, async (step) => {
      await rig.recycler.truncate();
      if (step === 'barrier B') expect(rig.volume.map.clusterCount).toBeLessThan(moves.sources.at(-1)!);
      else {
        for (const [i, source] of moves.sources.entries()) {
          // The refcount block is the one source that changes: the destinations' counts.
          const isBlock = rig.volume.image.refcounts.blocks[0] === source * 512;
          if (!isBlock && step !== 'update') expect(bytesOf(rig, source)).toEqual(contents[i]);
        }
        expect(rig.volume.map.clusterCount).toBe(moves.sources.at(-1)! + 1);
      }
    });
  });

  test('C59: it runs under the metadata lock', async () => {
    const rig = await rigFor(junkAtBothEnds().build());
    const gate = rig.gate.shut('truncate');
    const first = rig.recycler.truncate();
    await gate.arrived;
    expect(rig.recycler.metadata.busy).toBe(true);
    let ran = false;
    const other = rig.recycler.metadata.run(async () => void (ran = true));
    expect(await isPending(other)).toBe(true);
    expect(ran).toBe(false);
    gate.open();
    await first;
    await other;
    expect(rig.recycler.metadata.busy).toBe(false);
  });

  test('C60: pools beyond the new end go with it, each of them', async () => {
    const rig = await rigFor(junkAtBothEnds().build());
    const { map } = rig.volume;
    const inFront = 12;
    await rig.recycler.erase(inFront + 4, false);
    await rig.recycler.flush();
    await rig.recycler.erase(1, false);
    expect(census(rig)).toMatchObject({ junk: 1, erased: 1, available: inFront + 4 });
    await rig.recycler.truncate();
    expect(census(rig)).toMatchObject({ junk: 0, erased: 0, available: inFront });
    expect(map.clusterCount * 512).toBe(rig.memory.lengthBytes);
    expect(rig.volume.clusters.count).toBe(map.clusterCount);
    map.assertConsistent();
    await rig.recycler.flush();
    map.assertConsistent();
  });

  test('C60: the map stays as it is when the truncation fails', async () => {
    const rig = await rigFor(junkAtBothEnds().build(), { fault: { failAt: 1, kinds: ['truncate'] } });
    const before = census(rig);
    const { clusterCount } = rig.volume.map;
    await expect(rig.recycler.truncate()).rejects.toMatchObject({ code: 'EIO' });
    expect(census(rig)).toEqual(before);
    expect(rig.volume.map.clusterCount).toBe(clusterCount);
    expect(rig.volume.clusters.count).toBe(clusterCount);
    expect(rig.recycler.metadata.busy).toBe(false);
    expect(await rig.recycler.truncate()).toBe(true);
    expect(rig.volume.map.clusterCount).toBe(clusterCount - 6);
    rig.expectUnharmed();
  });

  test('C60: the map itself refuses to lose what somebody needs', () => {
    return rigFor(junkAtBothEnds().build()).then(({ volume: { map } }) => {
      const before = map.clusterCount;
      expect(() => map.truncate(map.lastCluster)).toThrow(/would cut off/);
      expect(map.clusterCount).toBe(before);
    });
  });

  test('C61: what the last barrier made durable refers to nothing that a truncation removes', async () => {
    let truncations = 0;
    for (let seed = 300; seed < 330; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 150 });
      const rig = await rigFor(bytes);
      const view = guestView(bytes);
      await compactDevice(rig.gate, { roundBytes: 8192, keepErased: seed % 3 });
      let durable = bytes;
      let current = bytes;
      for (const operation of rig.recorder.log) {
        if (operation.kind === 'flush') durable = current;
        else if (operation.kind === 'truncate') {
          truncations++;
          const cut = applied(durable, operation);
          expect(inspect(cut).corruptions, description).toEqual([]);
          expect(compareGuestView(view, cut), description).toBeNull();
        }
        current = applied(current, operation);
      }
    }
    expect(truncations).toBeGreaterThan(20);
  });

  test('C61: what is let go of is cut off after the barrier only', async () => {
    const rig = await rigFor(junkAtBothEnds().build());
    await rig.recycler.truncate();
    const last = rig.volume.map.lastCluster;
    rig.recycler.leave([last]);
    expect(await rig.recycler.truncate()).toBe(false);
    expect(rig.volume.map.is(last, State.leaving)).toBe(true);
    await rig.recycler.flush();
    expect(await rig.recycler.truncate()).toBe(true);
    expect(rig.volume.map.clusterCount).toBe(last);
  });

  test('it keeps as many clusters as it is told to', async () => {
    const rig = await rigFor(junkAtBothEnds().build());
    const last = rig.volume.map.lastCluster;
    await rig.recycler.truncate(last + 3);
    expect(rig.memory.lengthBytes).toBe((last + 3) * 512);
    expect(await rig.recycler.truncate(last + 100)).toBe(false);
  });
});
