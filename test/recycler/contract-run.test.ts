/** Recycler contract, section 10: the offline run, its checks of itself, its progress. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import type { CompactOptions, Progress } from '../../src/compactor/types.js';
import type { Operation } from '../../src/device/recording-device.js';
import { Kind } from '../../src/image/host-clusters.js';
import { State } from '../../src/recycler/cluster-map.js';
import { assertInSync } from '../../src/recycler/sync-check.js';
import { image } from '../support/image-builder.js';
import { guestView, inspect, minimalClusterCount } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import { clustersIn, expectSame, inOrder, movesFor, plannedMoves, rigFor, takeStep } from './harness.js';

/** Tables at 1 to 4, junk from 5 to 16, ten data clusters from 17. */
function dataBehindJunk() {
  return image({ clusterBits: 9 })
    .writeRange(0, 10)
    .layout({ gap: 12, arrange: inOrder('refcount', 'L', 'junk', 'data') })
    .build();
}

/** The log as one letter an operation: w(rite), f(lush), t(runcate), neighbouring writes as one. */
function outline(log: readonly Operation[]): string {
  return log
    .map(({ kind }) => kind[0])
    .join('')
    .replace(/w+/g, 'w');
}

describe('a run', () => {
  test('C69: a barrier, then plan, copy, barrier, update, barrier, truncate, and a last barrier', async () => {
    const rig = await rigFor(dataBehindJunk());
    const result = await compactDevice(rig.gate);
    expect(outline(rig.recorder.log)).toBe('f' + 'wfwfwtf');
    expect(result).toMatchObject({ outcome: 'compacted', rounds: 1, barriers: 4 });
    rig.expectUnharmed();
  });

  test('C69: a round costs two barriers: what it frees goes in the window of the next', async () => {
    const rig = await rigFor(dataBehindJunk());
    const result = await compactDevice(rig.gate, { roundBytes: 2048 });
    expect(outline(rig.recorder.log)).toBe('f' + 'wfwf' + 'wtwfwf' + 'wtwfwf' + 'wtf');
    expect(result).toMatchObject({ rounds: 3, barriers: 8 });
    rig.expectUnharmed();
  });

  test('C69: the report has references, bytes and lengths as they are', async () => {
    const builder = image({ clusterBits: 9 }).writeRange(0, 6).snapshot('a').write(0);
    const arrange = inOrder('refcount', 'snapshot', 'L1', 'L2', 'junk', 'data');
    const bytes = builder.layout({ gap: 20, leaks: 2, arrange }).build();
    const rig = await rigFor(bytes);
    const result = await compactDevice(rig.gate);
    expect(result).toMatchObject({
      lengthBefore: bytes.length,
      lengthAfter: rig.memory.lengthBytes,
      clustersToMove: 7,
      bytesToCopy: 7 * 512,
      bytesMoved: 7 * 512,
      // Five clusters are named by both L2 tables, two by one.
      referencesUpdated: 12,
      leaksReclaimed: 2,
      bytesWritten: rig.recorder.bytesWritten,
      barriers: rig.recorder.flushes,
    });
    expect(inspect(rig.memory.bytes())).toMatchObject({ leaks: 0, clusterCount: minimalClusterCount(bytes) });
  });

  test('C69: it ends when a plan moves nothing, and another run changes nothing', async () => {
    for (let seed = 400; seed < 430; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 200 });
      const rig = await rigFor(bytes);
      await compactDevice(rig.gate, { runtimeAsserts: true });
      const again = await rigFor(rig.memory.bytes());
      expect((await plannedMoves(again)).length, description).toBe(0);
      const second = await compactDevice(again.gate, { runtimeAsserts: true });
      expect(second.outcome, description).toBe('clean');
      expect(again.recorder.log, description).toEqual([]);
    }
  });

  test('C69: a cancel ends at a barrier with a valid, shorter file, at whichever progress report it comes', async () => {
    const bytes = dataBehindJunk();
    const lengths = new Set<number>();
    for (let when = 1; when <= 12; when++) {
      const rig = await rigFor(bytes);
      const controller = new AbortController();
      let reports = 0;
      const onProgress = ({ phase }: Progress) => {
        if (phase === 'move' && ++reports === when) controller.abort();
      };
      const options: CompactOptions = { roundBytes: 1024, signal: controller.signal, onProgress };
      const result = await compactDevice(rig.gate, { ...options, runtimeAsserts: true });
      if (reports < when) break;
      expect(result.outcome).toBe('interrupted');
      expect(rig.memory.lengthBytes).toBeLessThan(bytes.length);
      expect(rig.recorder.log.at(-1)!.kind).toBe('flush');
      expect(inspect(rig.memory.bytes()).leaks).toBe(0);
      rig.expectUnharmed();
      lengths.add(rig.memory.lengthBytes);
      await compactDevice(rig.memory);
      expect(rig.memory.lengthBytes).toBe(minimalClusterCount(bytes) * 512);
    }
    expect(lengths.size).toBe(5);
  });
});

describe('runtime asserts', () => {
  test('C70: memory and disk agree after every plan of runs over random images', async () => {
    for (let seed = 500; seed < 530; seed++) {
      const { bytes } = randomImage(seed, { maxClusters: 150 });
      const rig = await rigFor(bytes);
      await compactDevice(rig.gate, { runtimeAsserts: true, roundBytes: 4096, maxMoves: 9 });
      expectSame(guestView(bytes), rig.memory.bytes());
    }
  });

  test('C70: a copy that no move accounts for fails, and a move without its copy', async () => {
    const rig = await rigFor(dataBehindJunk());
    rig.recycler.assertConsistent();
    rig.volume.map.transition([8], State.junk, State.copy);
    expect(() => rig.recycler.assertConsistent()).toThrow(/cluster 8: copy and moves disagree/);
    rig.volume.map.transition([8], State.copy, State.junk);
    rig.recycler.begin(await movesFor(rig, [[20, 6]]));
    rig.recycler.assertConsistent();
    rig.volume.map.transition([6], State.copy, State.junk);
    expect(() => rig.recycler.assertConsistent()).toThrow(/cluster 6: copy and moves disagree/);
  });

  test('C70: a live cluster without references fails, and references to what is not live', async () => {
    const rig = await rigFor(dataBehindJunk());
    rig.volume.clusters.refs[20] = 0;
    expect(() => rig.recycler.assertConsistent()).toThrow(/cluster 20: references and state disagree/);
    rig.volume.clusters.refs[20] = 1;
    rig.volume.clusters.refs[7] = 1;
    expect(() => rig.recycler.assertConsistent()).toThrow(/cluster 7: references and state disagree/);
  });

  const damages: Record<string, (rig: Awaited<ReturnType<typeof rigFor>>) => Promise<void> | void> = {
    'a reference too many in memory': ({ volume }) => void volume.clusters.refs[20]!++,
    'a kind': ({ volume }) => volume.clusters.setKind(20, Kind.l2Table),
    'the active mark': ({ volume }) => volume.clusters.markActive(20),
    'the missing flag': ({ volume }) => volume.clusters.markUnflagged(20),
    'the place of the L1 table': ({ volume }) => void (volume.image.header.l1Offset += 512),
    'the place of the refcount table': ({ volume }) => void (volume.image.refcounts.tableOffset += 512),
    'the place of a refcount block': ({ volume }) => void (volume.image.refcounts.blocks[0]! += 512),
    'a count on disk': ({ memory, volume }) =>
      memory.write(Uint8Array.of(0, 7), volume.image.refcounts.blocks[0]! + 2 * 9),
    'an entry on disk': ({ memory }) => memory.write(new Uint8Array(8), 4 * 512 + 8),
    'corruption on disk': ({ memory }) => memory.write(Uint8Array.of(0x40 | 0x3f), 3 * 512),
  };
  test.each(Object.keys(damages))('C70: the sync check finds a difference in %s', async (name) => {
    const rig = await rigFor(dataBehindJunk());
    await assertInSync(rig.volume);
    await damages[name]!(rig);
    await expect(assertInSync(rig.volume)).rejects.toThrow(/out of sync/);
  });

  test('C70: the run itself makes the check after its plans, and only when asked to', async () => {
    const readsOf = async (runtimeAsserts: boolean): Promise<number> => {
      const rig = await rigFor(dataBehindJunk());
      const before = rig.recorder.reads;
      await compactDevice(rig.gate, { runtimeAsserts });
      return rig.recorder.reads - before;
    };
    expect(await readsOf(true)).toBeGreaterThan(await readsOf(false));
  });

  test('C70: the step that first goes wrong is the one that is reported', async () => {
    const rig = await rigFor(dataBehindJunk());
    rig.recycler.begin(await movesFor(rig, [[20, 6]]));
    for (const step of ['copy', 'barrier A', 'update'] as const) {
      await takeStep(rig, step);
      await assertInSync(rig.volume);
    }
    // As if the table write had been lost.
    await rig.memory.write(Uint8Array.of((20 * 512) >> 8), 4 * 512 + 3 * 8 + 6);
    await expect(assertInSync(rig.volume)).rejects.toThrow(/cluster 6/);
    expect(clustersIn(rig, State.leaving)).toEqual([20]);
  });
});

describe('progress', () => {
  async function progressOf(bytes: Uint8Array, options: CompactOptions = {}): Promise<Progress[]> {
    const progress: Progress[] = [];
    const rig = await rigFor(bytes);
    await compactDevice(rig.gate, {
      ...options,
      onProgress: (event) => {
        // 100 is said after the last barrier.
        if (event.percent === 100 && rig.recorder.log.length > 0) {
          expect(rig.recorder.log.at(-1)!.kind).toBe('flush');
        }
        progress.push(event);
      },
    });
    return progress;
  }

  test('C71: floor(100 * done / total) with the move just finished, 100 once and last', async () => {
    // One copy after the other: the junk between the data lets none of them be joined.
    const bytes = image({ clusterBits: 9 })
      .writeRange(0, 8)
      .layout({
        junk: 14,
        arrange: (units) => {
          const junk = units.filter(({ name }) => name === 'junk');
          const data = units.filter(({ name }) => name.startsWith('data'));
          const tables = units.filter(({ name }) => name !== 'junk' && !name.startsWith('data'));
          return [
            ...tables,
            ...junk.slice(0, 7),
            ...data.flatMap((unit, i) => [unit, ...junk.slice(7 + i, 8 + i)]),
          ];
        },
      })
      .build();
    const events = await progressOf(bytes, { roundBytes: 512 });
    const moving = events.filter(({ phase }) => phase === 'move');
    expect(moving).toHaveLength(7);
    for (const [i, { percent, bytesDone, bytesTotal }] of moving.entries()) {
      expect({ bytesDone, bytesTotal }).toEqual({ bytesDone: (i + 1) * 512, bytesTotal: 7 * 512 });
      // The last move is not the end of the run yet.
      expect(percent).toBe(i === 6 ? 99 : Math.floor((100 * (i + 1)) / 7));
    }
    expect(events.at(-1)).toMatchObject({
      phase: 'finish',
      percent: 100,
      bytesDone: 7 * 512,
      bytesTotal: 7 * 512,
    });
    expect(events.filter(({ percent }) => percent === 100)).toHaveLength(1);
  });

  test('C71: 100 is said also when there is nothing to move', async () => {
    for (const bytes of [
      image().writeRange(0, 3).build(),
      image().writeRange(0, 3).layout({ junkAtEnd: 3 }).build(),
    ]) {
      const events = await progressOf(bytes);
      expect(events.filter(({ percent }) => percent === 100)).toHaveLength(1);
      expect(events.at(-1)).toMatchObject({ phase: 'finish', percent: 100 });
    }
  });

  test('C71: it never falls, whatever is found on the way', async () => {
    for (let seed = 600; seed < 640; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 200 });
      const events = await progressOf(bytes, { roundBytes: 2048 });
      const percents = events.map(({ percent }) => percent);
      expect(percents, description).toEqual([...percents].sort((a, b) => a - b));
      expect(
        percents.filter((percent) => percent === 100),
        description,
      ).toEqual([100]);
      for (const { bytesDone, bytesTotal } of events) expect(bytesDone).toBeLessThanOrEqual(bytesTotal);
    }
  });

  test('C71: an interrupted run does not say 100', async () => {
    const controller = new AbortController();
    controller.abort();
    const events = await progressOf(dataBehindJunk(), { signal: controller.signal });
    expect(events.every(({ percent }) => percent < 100)).toBe(true);
  });
});
