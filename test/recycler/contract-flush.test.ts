/** Recycler contract, section 6: the one barrier, and what it advances. */
import { describe, expect, test } from 'vitest';
import { State } from '../../src/recycler/cluster-map.js';
import { MoveState } from '../../src/recycler/moves.js';
import { image } from '../support/image-builder.js';
import { guestView } from '../support/oracle.js';
import {
  census,
  clustersIn,
  expectSame,
  inOrder,
  isPending,
  movesFor,
  plannedMoves,
  rigFor,
} from './harness.js';

/** Tables at 1 to 4, junk from 5 to 16, data from 17 to 26, then two junk clusters. */
function dataBehindJunk() {
  return image({ clusterBits: 9 })
    .writeRange(0, 10)
    .layout({ gap: 12, junkAtEnd: 2, arrange: inOrder('refcount', 'L', 'junk', 'data') })
    .build();
}

describe('barriers', () => {
  test('C46: barriers go one at a time', async () => {
    const rig = await rigFor(dataBehindJunk());
    const gate = rig.gate.shut('flush');
    const [first, second] = [rig.recycler.flush(), rig.recycler.flush()];
    await gate.arrived;
    expect(await isPending(Promise.race([first, second]))).toBe(true);
    expect(rig.recorder.flushes).toBe(0);
    let passed = 0;
    rig.gate.onOperation = () => passed++;
    gate.open();
    await first;
    expect(passed).toBeGreaterThan(0);
    await second;
    expect([rig.recorder.flushes, rig.recycler.barriers]).toEqual([2, 2]);
  });

  test('C47: what is copied and erased during a barrier stays copied and erased', async () => {
    const rig = await rigFor(dataBehindJunk());
    rig.recycler.begin(
      await movesFor(rig, [
        [26, 5],
        [25, 7],
      ]),
    );
    const second = rig.gate.shut('write', 7 * 512, 512);
    const copying = rig.recycler.copy();
    await second.arrived;
    await isPending(copying);
    await rig.recycler.erase(2, false);
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    second.open();
    await copying;
    await rig.recycler.erase(3, false);
    gate.open();
    await flushing;
    expect(rig.recycler.moveState(26)).toBe(MoveState.flushed);
    expect(rig.recycler.moveState(25)).toBe(MoveState.copied);
    expect(census(rig)).toMatchObject({ available: 2, erased: 3 });
  });

  test('C47: what is let go of during a barrier stays leaving', async () => {
    const rig = await rigFor(dataBehindJunk());
    const before = clustersIn(rig, State.junk);
    rig.recycler.leave([20]);
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    rig.recycler.leave([21]);
    gate.open();
    await flushing;
    expect(clustersIn(rig, State.leaving)).toEqual([21]);
    expect(clustersIn(rig, State.junk)).toEqual([...before, 20].sort((a, b) => a - b));
    await rig.recycler.flush();
    expect(clustersIn(rig, State.leaving)).toEqual([]);
  });

  test('C48: copied becomes flushed, referenced completes, leaving becomes junk; the rest stays', async () => {
    const rig = await rigFor(dataBehindJunk());
    rig.recycler.begin(
      await movesFor(rig, [
        [26, 5],
        [24, 7],
        [22, 9],
      ]),
    );
    const last = rig.gate.shut('write', 9 * 512, 512);
    const middle = rig.gate.shut('write', 7 * 512, 512);
    const copying = rig.recycler.copy();
    // Two pieces are under way at a time: those of 22 and 24, so 26 is let through first.
    await Promise.all([last.arrived, middle.arrived]);
    middle.open();
    await isPending(copying);
    const at = (source: number) => rig.recycler.moveState(source);
    expect([at(26), at(24), at(22)]).toEqual([MoveState.copied, MoveState.copied, MoveState.copying]);
    await rig.recycler.flush();
    expect([at(26), at(24), at(22)]).toEqual([MoveState.flushed, MoveState.flushed, MoveState.copying]);
    await rig.recycler.flush();
    expect([at(26), at(24), at(22)]).toEqual([MoveState.flushed, MoveState.flushed, MoveState.copying]);
    await rig.recycler.updateReferences();
    rig.recycler.leave([18]);
    expect(clustersIn(rig, State.leaving)).toEqual([18, 24, 26]);
    await rig.recycler.flush();
    expect([at(26), at(24), at(22)]).toEqual([MoveState.complete, MoveState.complete, MoveState.copying]);
    for (const cluster of [18, 24, 26]) expect(rig.volume.map.is(cluster, State.junk)).toBe(true);
    last.open();
    await copying;
    expect(at(22)).toBe(MoveState.copied);
  });

  test('C49: a move that is cancelled during the barrier does not advance', async () => {
    const rig = await rigFor(dataBehindJunk());
    rig.recycler.begin(
      await movesFor(rig, [
        [26, 5],
        [25, 6],
      ]),
    );
    await rig.recycler.copy();
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    rig.recycler.cancel(26);
    gate.open();
    await flushing;
    expect(rig.recycler.moveState(26)).toBeUndefined();
    expect(rig.recycler.moveState(25)).toBe(MoveState.flushed);
    expect(rig.volume.map.is(5, State.junk)).toBe(true);
    rig.recycler.assertConsistent();
  });

  test('C49: nor do the moves of a round that began during it', async () => {
    const rig = await rigFor(dataBehindJunk());
    rig.recycler.begin(await movesFor(rig, [[26, 5]]));
    await rig.recycler.copy();
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    rig.recycler.cancelAll();
    rig.recycler.begin(await movesFor(rig, [[26, 6]]));
    await rig.recycler.copy();
    gate.open();
    await flushing;
    expect(rig.recycler.moveState(26)).toBe(MoveState.copied);
    await rig.recycler.flush();
    expect(rig.recycler.moveState(26)).toBe(MoveState.flushed);
  });

  test('C50: erased clusters that are truncated during the barrier are left out, without an error', async () => {
    const rig = await rigFor(dataBehindJunk());
    await rig.recycler.erase(14, false);
    expect(clustersIn(rig, State.erased)).toHaveLength(14);
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    await rig.recycler.truncate();
    expect(rig.volume.map.clusterCount).toBe(27);
    gate.open();
    await flushing;
    expect(clustersIn(rig, State.available)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    expect(rig.recycler.failure).toBeNull();
  });

  test('C50: nor do they advance where the file has grown again meanwhile', async () => {
    const rig = await rigFor(dataBehindJunk());
    await rig.recycler.erase(14, false);
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    await rig.recycler.truncate();
    await rig.recycler.extend(2);
    gate.open();
    await flushing;
    expect([27, 28].map((cluster) => rig.volume.map.state(cluster))).toEqual([State.junk, State.junk]);
  });

  test('C50: nor where they are there again and erased again, by writes that the barrier did not cover', async () => {
    const rig = await rigFor(dataBehindJunk());
    await rig.recycler.erase(14, false);
    const gate = rig.gate.shut('flush');
    const flushing = rig.recycler.flush();
    await gate.arrived;
    await rig.recycler.truncate();
    await rig.recycler.extend(2);
    await rig.recycler.erase(2, false);
    gate.open();
    await flushing;
    expect(clustersIn(rig, State.erased)).toEqual([27, 28]);
    await rig.recycler.flush();
    expect(clustersIn(rig, State.erased)).toEqual([]);
  });

  test('C50: the snapshot of what is erased becomes available, whatever was erased in between', async () => {
    const rig = await rigFor(dataBehindJunk());
    for (const amount of [1, 3, 2]) await rig.recycler.erase(amount, false);
    await rig.recycler.flush();
    expect(census(rig)).toMatchObject({ erased: 0, available: 6 });
  });

  test('C51: a failed barrier advances nothing, its error goes up and stays', async () => {
    const bytes = dataBehindJunk();
    for (const failAt of [1, 2]) {
      const rig = await rigFor(bytes, { fault: { failAt, kinds: ['flush'] } });
      const { recycler } = rig;
      recycler.begin(await plannedMoves(rig));
      await recycler.copy();
      if (failAt === 2) {
        await recycler.flush();
        await recycler.updateReferences();
      }
      await recycler.erase(1, false);
      const before = census(rig);
      const failure: unknown = await recycler.flush().catch((error: unknown) => error);
      expect(failure).toMatchObject({ code: 'EIO', syscall: 'fdatasync' });
      expect(census(rig)).toEqual(before);
      expect(recycler.failure).toBe(failure);

      // The device would succeed now, but a second fdatasync may lie: read-only from here.
      const written = rig.recorder.log.length;
      const attempts = [
        () => recycler.flush(),
        () => recycler.copy(),
        () => recycler.updateReferences(),
        () => recycler.erase(1, false),
        () => recycler.writeCounts(),
        () => recycler.truncate(),
        () => recycler.extend(1),
      ];
      for (const attempt of attempts) await expect(attempt()).rejects.toBe(failure);
      recycler.cancelAll();
      const next = await movesFor(rig, []);
      expect(() => recycler.begin(next)).toThrow(failure);
      expect(rig.recorder.log).toHaveLength(written);
      expect(rig.recycler.barriers).toBe(failAt - 1);
      expectSame(guestView(bytes), rig.memory.bytes());
    }
  });

  test('C51: whoever waited for the barrier behind the failed one gets the error too', async () => {
    const rig = await rigFor(dataBehindJunk(), { fault: { failAt: 1, kinds: ['flush'] } });
    const gate = rig.gate.shut('flush');
    const both = [rig.recycler.flush(), rig.recycler.flush(), rig.recycler.flush()];
    const settled = Promise.allSettled(both);
    await gate.arrived;
    gate.open();
    expect((await settled).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  });
});
