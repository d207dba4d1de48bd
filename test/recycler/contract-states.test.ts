/** Recycler contract, section 1: what state a cluster can be in, and how it gets there. */
import { describe, expect, test } from 'vitest';
import { openImage } from '../../src/image/image.js';
import { requireSound, walk } from '../../src/image/walk.js';
import { Compaction } from '../../src/recycler/compaction.js';
import { ClusterMap, State } from '../../src/recycler/cluster-map.js';
import { MoveState } from '../../src/recycler/moves.js';
import { assertInSync } from '../../src/recycler/sync-check.js';
import { WorkSignal } from '../../src/recycler/work-signal.js';
import { crashStates } from '../support/crash-simulator.js';
import { image } from '../support/image-builder.js';
import { Random } from '../support/random.js';
import { randomImage } from '../support/random-image.js';
import {
  type Rig,
  bytesOf,
  census,
  clustersIn,
  inOrder,
  movesFor,
  plannedMoves,
  rigFor,
  runRound,
  runToFixpoint,
  takeStep,
} from './harness.js';

type Name = keyof typeof State;
const NAMES = Object.keys(State) as Name[];

/** Clusters 0 and 1 live, the others brought by legal steps to the state of their name. */
function mapWithAllStates(): { map: ClusterMap; at: Record<Name, number> } {
  const at = { live: 1, leaving: 2, junk: 3, erased: 4, available: 5, held: 6, copy: 7 };
  const map = new ClusterMap(Uint32Array.of(1, 1, 1, 0, 0, 0, 0, 0), 8);
  map.transition([at.leaving], State.live, State.leaving);
  map.transition([at.erased, at.available, at.held], State.junk, State.held);
  map.transition([at.erased, at.available], State.held, State.erased);
  map.transition([at.available], State.erased, State.available);
  map.transition([at.copy], State.junk, State.copy);
  return { map, at };
}

/** The states and their counts, to see that nothing changed. */
function stateOf(map: ClusterMap): string {
  map.assertConsistent();
  return Array.from({ length: map.clusterCount }, (_, cluster) => map.state(cluster)).join(' ');
}

const LEGAL = new Set([
  'junk held',
  'held erased',
  'erased available',
  'available held',
  'held live',
  'held junk',
  'junk copy',
  'copy junk',
  'copy live',
  'live leaving',
  'leaving junk',
  // A discard of what a rewritten reference leads to (C62).
  'copy leaving',
]);

describe('cluster states', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'C1: every cluster is in one state at every operation of a run, seed %i',
    async (seed) => {
      const rig = await rigFor(randomImage(seed, { maxClusters: 150 }).bytes);
      const options = { keepErased: 3, punch: false, roundBytes: 8192, runtimeAsserts: true };
      const compaction = new Compaction(rig.volume, {
        ...options,
        stopped: () => false,
        onMoved: () => undefined,
      });
      let operations = 0;
      rig.gate.onOperation = () => {
        operations++;
        compaction.recycler.assertConsistent();
        const total = Object.values(census(rig)).reduce((sum, count) => sum + count, 0);
        if (total !== rig.volume.map.clusterCount) throw new Error('some cluster is in no state');
      };
      await compaction.run();
      expect(operations).toBeGreaterThan(0);
      rig.expectUnharmed();
    },
  );

  test('C1: between rewrite and barrier, and only then, a destination is referenced and copy', async () => {
    const rig = await rigFor(
      image()
        .writeRange(0, 6)
        .layout({ gap: 10, arrange: inOrder('junk') })
        .build(),
    );
    const both = () =>
      clustersIn(rig, State.copy).filter((cluster) => rig.volume.clusters.refs[cluster]! > 0);
    const moves = await plannedMoves(rig);
    await runRound(rig, moves, (step) => {
      expect(both()).toHaveLength(step === 'update' ? moves.length : 0);
    });
  });

  test.each(NAMES.flatMap((from) => NAMES.map((to) => [from, to] as const)))('C2: %s -> %s', (from, to) => {
    const { map, at } = mapWithAllStates();
    const before = stateOf(map);
    const change = () => map.transition([at[from]], State[from], State[to]);
    if (LEGAL.has(`${from} ${to}`)) {
      change();
      expect(map.is(at[from], State[to])).toBe(true);
      map.assertConsistent();
    } else {
      expect(change).toThrow(/illegal/);
      expect(stateOf(map)).toBe(before);
    }
  });

  test('C2: pools go with a truncation, new clusters at the end of the file are available', () => {
    const map = new ClusterMap(Uint32Array.of(1, 0, 0, 0, 0), 5);
    map.transition([2, 3], State.junk, State.held);
    map.transition([2, 3], State.held, State.erased);
    map.transition([3], State.erased, State.available);
    map.truncate(2);
    expect(stateOf(map)).toBe(`${State.live} ${State.junk}`);
    map.extend(2);
    expect(stateOf(map)).toBe(`${State.live} ${State.junk} ${State.available} ${State.available}`);
  });

  test.each([
    ['a member in another state', [3, 1]],
    ['a member in another state, met first', [1, 3]],
    ['a member beyond the end', [3, 8]],
    ['a member listed twice', [3, 3]],
  ])('C3: %s is an error, and nothing changes', (_, clusters) => {
    const { map } = mapWithAllStates();
    const before = stateOf(map);
    expect(() => map.transition(clusters, State.junk, State.held)).toThrow();
    expect(stateOf(map)).toBe(before);
    expect(() => map.transition(Uint32Array.from(clusters), State.junk, State.held)).toThrow();
    expect(stateOf(map)).toBe(before);
  });

  test('C4: on open every cluster that nothing refers to is junk, zeroes and leaks included', async () => {
    const built = image({ clusterBits: 9 }).writeRange(0, 5).layout({ junk: 6, leaks: 4, zeroJunk: true });
    const rig = await rigFor(built.build());
    expect(census(rig)).toMatchObject({ junk: 10, erased: 0, available: 0, held: 0, copy: 0, leaving: 0 });
    expect(rig.volume.map.countOf(State.live)).toBe(rig.volume.map.clusterCount - 10);
  });

  test('C5: tables are read from the disk anew after what they were has become junk', async () => {
    const rig = await rigFor(
      image()
        .writeRange(0, 6)
        .layout({ gap: 10, arrange: inOrder('junk') })
        .build(),
    );
    const moves = await plannedMoves(rig);
    await runRound(rig, moves);
    // Whatever stood at the old places is overwritten: a stale copy of a table would show.
    for (const source of moves.sources) {
      await rig.gate.write(new Uint8Array(rig.clusterBytes).fill(0xee), source * rig.clusterBytes);
    }
    await assertInSync(rig.volume);
    rig.expectUnharmed();
  });

  test('C6: a cluster becomes live only from held or copy', () => {
    for (const from of NAMES) {
      const { map, at } = mapWithAllStates();
      const change = () => map.transition([at[from]], State[from], State.live);
      if (from === 'held' || from === 'copy') expect(change).not.toThrow();
      else expect(change).toThrow(/illegal/);
    }
  });

  test('C6: a reference to a cluster that is not live is found by the sync check', async () => {
    const rig = await rigFor(image().writeRange(0, 4).layout({ junk: 4 }).build());
    await assertInSync(rig.volume);
    rig.volume.clusters.refs[clustersIn(rig, State.junk)[0]!] = 1;
    expect(() => rig.recycler.assertConsistent()).toThrow(/references and state disagree/);
    await expect(assertInSync(rig.volume)).rejects.toThrow(/out of sync: cluster/);
  });

  test('C6: one more reference than the refcount explains refuses the image and names the cluster', async () => {
    const built = image().write(0).write(1).buildWithMap();
    const bytes = built.bytes.slice();
    const l2 = built.where('L2 active:0') * 512;
    bytes.copyWithin(l2 + 8, l2, l2 + 8);
    await expect(rigFor(bytes)).rejects.toThrow(
      `cluster ${built.where('data active:0')} refcount=1 reference=2`,
    );
  });

  test('C7: what was available at a crash reads as zeroes in every state that the crash can leave', async () => {
    const builder = image({ clusterBits: 9 }).writeRange(0, 8);
    const initial = builder.layout({ gap: 24, arrange: inOrder('refcount', 'L', 'junk') }).build();
    const rig = await rigFor(initial);
    let states = 0;
    const flushed: { position: number; available: number[]; bytes: Uint8Array }[] = [];
    for (const amount of [3, 4, 2]) {
      await rig.recycler.erase(amount, amount === 4);
      await rig.recycler.flush();
      const available = clustersIn(rig, State.available);
      flushed.push({ position: rig.recorder.log.length, available, bytes: rig.memory.bytes() });
    }
    const taken = new Set(flushed.at(-1)!.available);
    expect(taken.size).toBe(9);
    const free = clustersIn(rig, State.junk);
    const data = clustersIn(rig, State.live).slice(-free.length);
    await runRound(
      rig,
      await movesFor(
        rig,
        data.slice(0, 5).map((source, i) => [source, free[i]!] as const),
      ),
    );
    for (const { position, available, bytes } of flushed) {
      const log = rig.recorder.log.slice(position);
      for (const state of crashStates(bytes, log, { seed: 7, subsetsPerWindow: 40 })) {
        states++;
        for (const cluster of available) {
          const content = state.bytes.subarray(cluster * 512, (cluster + 1) * 512);
          if (content.some((byte) => byte !== 0)) expect.fail(`cluster ${cluster}: ${state.label}`);
        }
      }
    }
    expect(states).toBeGreaterThan(100);
  });

  test('C8: the last cluster is the highest that is in no pool', () => {
    const random = new Random(8);
    for (let round = 0; round < 200; round++) {
      const count = random.between(1, 30);
      const map = new ClusterMap(
        Uint32Array.from({ length: count }, () => random.int(2)),
        count,
      );
      for (let step = 0; step < 60; step++) {
        const cluster = random.int(count);
        const [, to] = random.pick([...LEGAL].map((legal) => legal.split(' ') as [Name, Name]));
        const from = NAMES[map.state(cluster)]!;
        if (LEGAL.has(`${from} ${to}`)) map.transition([cluster], State[from], State[to]);
      }
      let last = -1;
      for (let cluster = 0; cluster < count; cluster++) {
        if (!['junk', 'erased', 'available'].includes(NAMES[map.state(cluster)]!)) last = cluster;
      }
      expect(map.lastCluster).toBe(last);
    }
  });

  test('C8: the source of an unfinished move counts until the move completes', async () => {
    const rig = await rigFor(
      image()
        .writeRange(0, 6)
        .layout({ gap: 10, arrange: inOrder('junk') })
        .build(),
    );
    const last = rig.volume.map.lastCluster;
    const moves = await plannedMoves(rig);
    expect(moves.sources.at(-1)).toBe(last);
    await runRound(rig, moves, (step) => {
      if (step !== 'barrier B') expect(rig.volume.map.lastCluster).toBe(last);
      else expect(rig.volume.map.lastCluster).toBeLessThan(last);
    });
  });

  test('C9: clusters that an extension adds read as zeroes, also where the file was longer before', async () => {
    const rig = await rigFor(image().writeRange(0, 4).layout({ junkAtEnd: 4 }).build());
    const { map } = rig.volume;
    const before = map.clusterCount;
    await rig.recycler.flush();
    await rig.recycler.truncate();
    expect(map.clusterCount).toBe(before - 4);
    const states: string[] = [];
    map.onChange = () => states.push(map.is(before - 1, State.available) ? 'available' : 'other');
    await rig.recycler.extend(4);
    expect(states[0]).toBe('available');
    for (let cluster = before - 4; cluster < before; cluster++) {
      expect(bytesOf(rig, cluster)).toEqual(new Uint8Array(512));
    }
    rig.expectUnharmed();
  });
});

describe('wake-ups', () => {
  test('C10: a wake-up between the look and the wait ends the wait at once', async () => {
    const signal = new WorkSignal();
    const seen = signal.version;
    signal.raise();
    await signal.wait(seen);
    let woken = 0;
    const waits = [signal.wait(signal.version), signal.wait(signal.version)].map((wait) =>
      wait.then(() => woken++),
    );
    await Promise.resolve();
    expect(woken).toBe(0);
    signal.raise();
    await Promise.all(waits);
    expect(woken).toBe(2);
  });

  /** What a scheduler would call work, apart from settings. */
  const hasWork = (
    { recycler, volume: { map } }: Rig,
    known: { junk: number; last: number },
    source: number,
  ) =>
    map.countOf(State.junk) !== known.junk ||
    map.lastCluster !== known.last ||
    recycler.moveState(source) === MoveState.flushed;

  test.each(['erase', 'flush of a copied move', 'cancel', 'leave', 'truncate', 'extend', 'barrier B'])(
    'C10: a scheduler never sleeps with work present: %s, at each of its await points',
    async (trigger) => {
      for (const point of ['before the look', 'between look and wait', 'while it waits']) {
        const builder = image()
          .writeRange(0, 6)
          .layout({ gap: 10, junkAtEnd: 2, arrange: inOrder('junk') });
        const rig = await rigFor(builder.build());
        const { recycler } = rig;
        const moves = await movesFor(rig, [[rig.volume.map.lastCluster, 1]]);
        const source = moves.sources[0]!;
        recycler.begin(moves);
        await recycler.copy();
        if (trigger === 'barrier B') {
          await recycler.flush();
          await recycler.updateReferences();
        }
        const known = { junk: rig.volume.map.countOf(State.junk), last: rig.volume.map.lastCluster };
        const fire = async () => {
          if (trigger === 'erase') await recycler.erase(1, false);
          else if (trigger === 'cancel') recycler.cancel(source);
          else if (trigger === 'leave') {
            recycler.leave([source - 1]);
            await recycler.flush();
          } else if (trigger === 'truncate') await recycler.truncate();
          else if (trigger === 'extend') await recycler.extend(1);
          else await recycler.flush();
        };
        let found = false;
        const scheduler = async () => {
          for (let turn = 0; turn < 20 && !found; turn++) {
            if (turn === 0 && point === 'before the look') await fire();
            const seen = recycler.work.version;
            found = hasWork(rig, known, source);
            if (found) return;
            if (turn === 0 && point === 'between look and wait') await fire();
            await recycler.work.wait(seen);
          }
        };
        const running = scheduler();
        await Promise.resolve();
        if (point === 'while it waits') await fire();
        await running;
        expect(found).toBe(true);
      }
    },
  );

  test('C10: every step of a whole run that changes a pool raises the signal', async () => {
    const rig = await rigFor(randomImage(3, { maxClusters: 150 }).bytes);
    let version = rig.recycler.work.version;
    let before = JSON.stringify(census(rig));
    await runToFixpoint(rig, () => {
      const after = JSON.stringify(census(rig));
      if (after !== before) expect(rig.recycler.work.version).toBeGreaterThan(version);
      version = rig.recycler.work.version;
      before = after;
    });
    expect(version).toBeGreaterThan(0);
  });
});

test('the rig itself opens and walks what it is given', async () => {
  const rig = await rigFor(randomImage(1, { maxClusters: 100 }).bytes);
  const walked = await walk(await openImage(rig.memory));
  expect(() => requireSound(walked)).not.toThrow();
  const moves = await plannedMoves(rig);
  if (moves.length > 0) {
    rig.recycler.begin(moves);
    await takeStep(rig, 'copy');
  }
  rig.expectUnharmed();
});
