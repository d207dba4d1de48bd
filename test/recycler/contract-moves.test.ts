/** Recycler contract, section 4: plans, moves, copies, cancelling, completion. */
import { describe, expect, test } from 'vitest';
import { State } from '../../src/recycler/cluster-map.js';
import { copyMoves } from '../../src/recycler/copier.js';
import { goalFor } from '../../src/recycler/goal.js';
import { MoveState, Moves } from '../../src/recycler/moves.js';
import { planMoves } from '../../src/recycler/planner.js';
import { compactDevice } from '../../src/compactor/compact.js';
import { image } from '../support/image-builder.js';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import {
  STEPS,
  type Rig,
  bytesOf,
  census,
  clustersIn,
  inOrder,
  isPending,
  movesFor,
  plannedMoves,
  rigFor,
  runRound,
  takeStep,
  writesIn,
} from './harness.js';

const MOVE_STATES = Object.keys(MoveState) as (keyof typeof MoveState)[];

/** Tables first, then junk, then ten data clusters that all have to move. */
function dataBehindJunk(options: { clusterBits?: number } = {}) {
  return image({ clusterBits: 9, ...options })
    .writeRange(0, 10)
    .layout({ gap: 12, arrange: inOrder('refcount', 'L', 'junk', 'data') });
}

/** Junk first: every table moves, with the data that it leads to. */
function everythingBehindJunk() {
  return image({ clusterBits: 9 })
    .writeRange(0, 10)
    .snapshot('a')
    .writeRange(4, 3)
    .layout({ gap: 30, arrange: inOrder('junk') });
}

function emptySlots() {
  return { offsets: new Float64Array(0), moves: new Uint32Array(0) };
}

function oneMove(): Moves {
  return new Moves(Uint32Array.of(9), Uint32Array.of(3), emptySlots(), () => false);
}

/** One data move brought to `state` by the engine's own steps. */
async function moveIn(
  state: keyof typeof MoveState,
): Promise<{ rig: Rig; source: number; destination: number }> {
  const rig = await rigFor(dataBehindJunk().build());
  const source = rig.volume.map.lastCluster;
  const [destination] = clustersIn(rig, State.junk);
  rig.recycler.begin(await movesFor(rig, [[source, destination!]]));
  const steps = { cancelled: 0, copying: 0, copied: 1, flushed: 2, referenced: 3, complete: 4 }[state];
  for (const step of STEPS.slice(0, steps)) await takeStep(rig, step);
  if (state === 'cancelled') rig.recycler.cancel(source);
  return { rig, source, destination: destination! };
}

describe('plans', () => {
  test('C20: destinations are junk below their sources, each cluster once', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 200 });
      const rig = await rigFor(bytes);
      const goal = goalFor(rig.volume, 0);
      const { sources, destinations, extendBy } = planMoves(rig.volume, goal);
      const all = new Set([...sources, ...destinations]);
      expect(all.size, description).toBe(2 * sources.length);
      for (const [i, source] of sources.entries()) {
        const destination = destinations[i]!;
        expect(rig.volume.map.is(source, State.live), description).toBe(true);
        if (destination >= rig.volume.map.clusterCount) {
          expect(destination).toBeLessThan(rig.volume.map.clusterCount + extendBy);
          continue;
        }
        expect(rig.volume.map.is(destination, State.junk), description).toBe(true);
        // What lies beyond the limit goes down; only what steps aside for a table may go up.
        if (source >= goal.moveLimit && extendBy === 0) expect(destination, description).toBeLessThan(source);
      }
    }
  });

  test('C20: junk beyond the last live cluster is left to truncation', async () => {
    const rig = await rigFor(dataBehindJunk().layout({ junkAtEnd: 20 }).build());
    const last = rig.volume.map.lastCluster;
    const { destinations } = planMoves(rig.volume, goalFor(rig.volume, 0));
    for (const destination of destinations) expect(destination).toBeLessThan(last);
  });

  test('C21: registration is one step: all moves copying, all destinations copy', async () => {
    const rig = await rigFor(everythingBehindJunk().build());
    const moves = await plannedMoves(rig);
    rig.recycler.begin(moves);
    expect(clustersIn(rig, State.copy)).toEqual([...moves.destinations].sort((a, b) => a - b));
    for (const source of moves.sources) expect(rig.recycler.moveState(source)).toBe(MoveState.copying);
    expect(rig.recorder.log).toEqual([]);
    rig.recycler.assertConsistent();
  });

  test.each([
    ['a destination that is not junk', [[20, 21]]],
    [
      'a destination that is a source',
      [
        [20, 6],
        [6, 7],
      ],
    ],
    [
      'the same destination twice',
      [
        [20, 6],
        [21, 6],
      ],
    ],
    [
      'the same source twice',
      [
        [20, 6],
        [20, 7],
      ],
    ],
    ['a source that is not live', [[8, 7]]],
    ['a destination beyond the end of the file', [[20, 900]]],
  ] as const)('C21: %s is an error, and nothing changes', async (_, pairs) => {
    const rig = await rigFor(dataBehindJunk().build());
    // rt, rb, L1, L2: clusters 1 to 4; junk: 5 to 16; data: 17 to 26.
    expect(clustersIn(rig, State.junk)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    const before = census(rig);
    const moves = await movesFor(rig, pairs);
    expect(() => rig.recycler.begin(moves)).toThrow();
    expect(census(rig)).toEqual(before);
    expect(rig.recycler.unfinishedMoves).toBe(false);
    rig.recycler.assertConsistent();
  });

  test('C21: a destination that another move is copied to is an error', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    rig.recycler.begin(await movesFor(rig, [[20, 6]]));
    rig.recycler.cancelAll();
    rig.volume.map.transition([6], State.junk, State.copy);
    expect(() =>
      rig.recycler.begin(new Moves(Uint32Array.of(21), Uint32Array.of(6), emptySlots(), () => false)),
    ).toThrow(/cluster 6 is copy, not junk/);
  });

  test('C22: no round begins while a move of the last one is unfinished, in any state', async () => {
    for (const state of MOVE_STATES) {
      const { rig } = await moveIn(state);
      const free = clustersIn(rig, State.junk);
      const next = await movesFor(rig, [[clustersIn(rig, State.live).at(-1)! - 1, free[0]!]]);
      const begin = () => rig.recycler.begin(next);
      if (state === 'cancelled' || state === 'complete') expect(begin).not.toThrow();
      else expect(begin).toThrow(/unfinished/);
    }
  });
});

describe('the order of states', () => {
  test.each(MOVE_STATES.flatMap((from) => MOVE_STATES.map((to) => [from, to] as const)))(
    'C23: %s -> %s',
    (from, to) => {
      const moves = oneMove();
      if (from === 'cancelled') moves.cancel(0);
      else
        for (let state = MoveState.copying; state < MoveState[from];) moves.advance(0, ++state as MoveState);
      expect(moves.state(0)).toBe(MoveState[from]);
      const advance = () => moves.advance(0, MoveState[to]);
      if (from === 'cancelled') {
        // Silent, and still cancelled.
        advance();
        expect(moves.state(0)).toBe(MoveState.cancelled);
      } else if (MoveState[to] === MoveState[from] + 1) {
        advance();
        expect(moves.state(0)).toBe(MoveState[to]);
      } else {
        expect(advance).toThrow(/cannot go from/);
        expect(moves.state(0)).toBe(MoveState[from]);
      }
    },
  );

  test('C23: the steps of a round take its moves from state to state', async () => {
    const rig = await rigFor(everythingBehindJunk().build());
    const moves = await plannedMoves(rig);
    const expected = {
      begin: 'copying',
      copy: 'copied',
      'barrier A': 'flushed',
      update: 'referenced',
      'barrier B': 'complete',
    } as const;
    await runRound(rig, moves, (step) => {
      expect(moves.inState(MoveState[expected[step]])).toHaveLength(moves.length);
    });
    rig.expectUnharmed();
  });
});

describe('copies', () => {
  test('C24: a read lock on the source does not stop the copy', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    rig.recycler.begin(await movesFor(rig, [[20, 6]]));
    const release = await rig.recycler.locks.shared(20, 1);
    await rig.recycler.copy();
    expect(rig.recycler.moveState(20)).toBe(MoveState.copied);
    release();
    expect(rig.recycler.locks.heldCount).toBe(0);
  });

  test('C24: a write lock on the source makes it wait, other copies go on', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    rig.recycler.begin(
      await movesFor(rig, [
        [20, 6],
        [22, 9],
      ]),
    );
    const release = await rig.recycler.locks.exclusive(20, 1);
    const copying = rig.recycler.copy();
    expect(await isPending(copying)).toBe(true);
    expect(rig.recycler.moveState(20)).toBe(MoveState.copying);
    expect(rig.recycler.moveState(22)).toBe(MoveState.copied);
    release();
    await copying;
    expect(rig.recycler.moveState(20)).toBe(MoveState.copied);
  });

  test('C24: the source is locked shared before the destination is locked exclusively', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    const { locks } = rig.recycler;
    rig.recycler.begin(await movesFor(rig, [[20, 6]]));
    const release = await locks.shared(6, 1);
    const copying = rig.recycler.copy();
    expect(await isPending(copying)).toBe(true);
    expect(locks.tryExclusive(20, 1)).toBeNull();
    const reader = await locks.shared(20, 1);
    reader();
    release();
    const gate = rig.gate.shut('write', 6 * 512, 512);
    await gate.arrived;
    const readDestination = locks.shared(6, 1);
    expect(await isPending(readDestination)).toBe(true);
    gate.open();
    await copying;
    (await readDestination)();
    expect(locks.heldCount).toBe(0);
  });

  test('C25: a move cancelled while its copy waited for the lock is neither read nor written', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    rig.recycler.begin(await movesFor(rig, [[20, 6]]));
    const release = await rig.recycler.locks.exclusive(20, 1);
    const copying = rig.recycler.copy();
    expect(await isPending(copying)).toBe(true);
    const touched: string[] = [];
    rig.gate.onOperation = (kind) => touched.push(kind);
    rig.recycler.cancel(20);
    release();
    await copying;
    expect(touched).toEqual([]);
    expect(rig.volume.map.is(6, State.junk)).toBe(true);
  });

  test('C25: its destination may be outside the file by then', async () => {
    const rig = await rigFor(dataBehindJunk().layout({ junkAtEnd: 3 }).build());
    const end = rig.volume.map.clusterCount - 1;
    rig.recycler.begin(await movesFor(rig, [[20, end]]));
    const release = await rig.recycler.locks.exclusive(20, 1);
    const copying = rig.recycler.copy();
    expect(await isPending(copying)).toBe(true);
    rig.recycler.cancel(20);
    await rig.recycler.truncate();
    expect(rig.volume.map.clusterCount).toBeLessThanOrEqual(end);
    const length = rig.memory.lengthBytes;
    release();
    await copying;
    expect(rig.memory.lengthBytes).toBe(length);
  });

  test('C26: a copy is a full cluster', async () => {
    const rig = await rigFor(dataBehindJunk({ clusterBits: 12 }).build());
    const moves = await plannedMoves(rig);
    await runRound(rig, moves, (step) => {
      if (step !== 'copy') return;
      for (const [i, source] of moves.sources.entries()) {
        expect(bytesOf(rig, moves.destinations[i]!)).toEqual(bytesOf(rig, source));
      }
    });
    rig.expectUnharmed();
  });

  test('C26: the last cluster, in the file in part only, is copied with zeroes behind it', async () => {
    const whole = dataBehindJunk({ clusterBits: 12 }).build();
    const cut = whole.slice(0, whole.length - 1000);
    const rig = await rigFor(cut);
    const moves = await plannedMoves(rig);
    const destination = moves.destinations.at(-1)!;
    await runRound(rig, moves);
    const expected = new Uint8Array(4096);
    expected.set(cut.subarray(cut.length - 3096));
    expect(bytesOf(rig, destination)).toEqual(expected);
    rig.expectUnharmed();
  });

  test('C26: a destination that is not copy any more after the copy is a programming error', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    const moves = await movesFor(rig, [[20, 6]]);
    rig.volume.map.transition(moves.destinations, State.junk, State.copy);
    const gate = rig.gate.shut('write');
    const copying = copyMoves(rig.volume, rig.recycler.locks, moves, {
      onCopied: () => undefined,
      hasClients: false,
    });
    await gate.arrived;
    rig.volume.map.transition([6], State.copy, State.junk);
    gate.open();
    await expect(copying).rejects.toThrow(/changed its state/);
    expect(rig.recycler.locks.heldCount).toBe(0);
  });

  test('C27: whichever operation of the copying fails, all moves are cancelled and the next round can start', async () => {
    let failed = 0;
    for (const kind of ['read', 'write'] as const) {
      const clean = await rigFor(everythingBehindJunk().build());
      clean.recycler.begin(await plannedMoves(clean));
      let before = kind === 'read' ? clean.recorder.reads : clean.recorder.writes;
      const first = before;
      await clean.recycler.copy();
      before = kind === 'read' ? clean.recorder.reads : clean.recorder.writes;
      for (let failAt = first + 1; failAt <= before; failAt++) {
        for (const code of ['EIO', 'ENOSPC']) {
          const rig = await rigFor(everythingBehindJunk().build(), {
            fault: { failAt, kinds: [kind], code },
          });
          const states = census(rig);
          const moves = await plannedMoves(rig);
          rig.recycler.begin(moves);
          await expect(rig.recycler.copy()).rejects.toMatchObject({ code });
          failed++;
          expect(rig.recycler.unfinishedMoves).toBe(false);
          expect(census(rig)).toEqual(states);
          expect(rig.recycler.locks.heldCount).toBe(0);
          rig.expectUnharmed();
          await runRound(rig, await plannedMoves(rig));
          await rig.recycler.writeCounts();
          await rig.recycler.truncate();
          rig.expectUnharmed();
          const { leaks, clusterCount } = inspect(rig.memory.bytes());
          expect({ leaks, clusterCount }).toEqual({
            leaks: 0,
            clusterCount: minimalClusterCount(rig.memory.bytes()),
          });
        }
      }
    }
    expect(failed).toBeGreaterThan(10);
  });
});

describe('cancelling', () => {
  test.each(MOVE_STATES)('C28: a cancel in state %s', async (state) => {
    const { rig, source, destination } = await moveIn(state);
    const before = census(rig);
    const open = state === 'copying' || state === 'copied' || state === 'flushed';
    expect(rig.recycler.cancel(source)).toBe(open);
    if (open) {
      expect(rig.recycler.moveState(source)).toBeUndefined();
      expect(rig.volume.map.is(destination, State.junk)).toBe(true);
      expect(rig.volume.map.is(source, State.live)).toBe(true);
      expect(rig.recycler.unfinishedMoves).toBe(false);
    } else expect(census(rig)).toEqual(before);
    rig.recycler.assertConsistent();
    // What is left of the round goes on without it.
    await rig.recycler.flush();
    rig.expectUnharmed();
    await rig.recycler.writeCounts();
    await rig.recycler.truncate();
    rig.expectUnharmed();
    expect(inspect(rig.memory.bytes()).leaks).toBe(0);
  });

  test('C28: a cancel of what does not move, and with no round at all, does nothing', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    expect(rig.recycler.cancel(20)).toBe(false);
    rig.recycler.begin(await movesFor(rig, [[20, 6]]));
    expect(rig.recycler.cancel(21)).toBe(false);
    expect(rig.recycler.cancel(6)).toBe(false);
    expect(rig.recycler.moveState(20)).toBe(MoveState.copying);
  });

  test('C28: a cancelled cluster takes along the tables whose copies name its destination', async () => {
    for (const stop of [1, 2]) {
      const rig = await rigFor(everythingBehindJunk().build());
      const moves = await plannedMoves(rig);
      rig.recycler.begin(moves);
      for (const step of STEPS.slice(0, stop)) await takeStep(rig, step);
      const data = rig.volume.map.lastCluster;
      expect(rig.recycler.cancel(data)).toBe(true);
      rig.recycler.assertConsistent();
      for (const step of STEPS.slice(stop)) await takeStep(rig, step);
      await rig.recycler.flush();
      await rig.recycler.updateReferences();
      await rig.recycler.flush();
      expect(rig.volume.map.is(data, State.live)).toBe(true);
      rig.expectUnharmed();
      await rig.recycler.writeCounts();
      await rig.recycler.truncate();
      rig.expectUnharmed();
      expect(inspect(rig.memory.bytes()).leaks).toBe(0);
    }
  });

  test('C28: a cancel of any single move at any point leaves a sound image without leaks', async () => {
    for (const seed of [1, 2, 3, 5, 8, 13]) {
      const { bytes, description } = randomImage(seed, { maxClusters: 80, clusterBits: 9, clean: true });
      const count = (await plannedMoves(await rigFor(bytes))).length;
      for (let which = 0; which < count; which += Math.max(1, Math.floor(count / 6))) {
        for (const stop of [0, 1, 2]) {
          const rig = await rigFor(bytes);
          const moves = await plannedMoves(rig);
          const source = moves.sources[which]!;
          rig.recycler.begin(moves);
          for (const step of STEPS.slice(0, stop)) await takeStep(rig, step);
          expect(rig.recycler.cancel(source), description).toBe(true);
          for (const step of STEPS.slice(stop)) await takeStep(rig, step);
          rig.recycler.assertConsistent();
          rig.expectUnharmed();
          await rig.recycler.writeCounts();
          await rig.recycler.truncate();
          rig.expectUnharmed();
          expect(inspect(rig.memory.bytes()).leaks, description).toBe(0);
        }
      }
    }
  });

  test('C29: nothing that the recycler does on its own cancels a move', async () => {
    for (const state of ['copying', 'copied', 'flushed', 'referenced', 'complete'] as const) {
      const actions: ((rig: Rig) => Promise<unknown>)[] = [
        ({ recycler }) => recycler.erase(2, false),
        ({ recycler }) => recycler.writeCounts(),
        ({ recycler }) => recycler.truncate(),
        ({ recycler }) => recycler.extend(1),
        ({ recycler }) => recycler.flush(),
      ];
      for (const act of actions) {
        const { rig, source } = await moveIn(state);
        await act(rig);
        expect(rig.recycler.moveState(source)).toBeGreaterThanOrEqual(MoveState[state]);
      }
    }
  });

  test.each(['copying', 'copied', 'flushed', 'referenced', 'complete'] as const)(
    'C29: a change of a table that moves, in state %s',
    async (state) => {
      const rig = await rigFor(everythingBehindJunk().build());
      const moves = await plannedMoves(rig);
      rig.recycler.begin(moves);
      const steps = { copying: 0, copied: 1, flushed: 2, referenced: 3, complete: 4 }[state];
      const table = rig.volume.image.header.l1Offset / 512;
      for (const step of STEPS.slice(0, steps)) await takeStep(rig, step);
      rig.recycler.tableChanged(table);
      const still = state === 'referenced' || state === 'complete';
      expect(rig.recycler.moveState(table)).toBe(still ? MoveState[state] : undefined);
      rig.recycler.assertConsistent();
      for (const step of STEPS.slice(steps)) await takeStep(rig, step);
      rig.expectUnharmed();
    },
  );

  test('C29: a changed cluster of a table of several takes the whole table', async () => {
    // 512-byte clusters: an L1 table of 200 entries has four clusters.
    const rig = await rigFor(
      image({ l1Size: 200 })
        .writeRange(0, 4)
        .layout({ gap: 30, arrange: inOrder('junk') })
        .build(),
    );
    rig.recycler.begin(await plannedMoves(rig));
    const table = rig.volume.image.header.l1Offset / 512;
    await rig.recycler.copy();
    rig.recycler.tableChanged(table + 2);
    for (let i = 0; i < 4; i++) expect(rig.recycler.moveState(table + i)).toBeUndefined();
    for (const step of STEPS.slice(1)) await takeStep(rig, step);
    rig.expectUnharmed();
  });

  test('C41: a refcount block whose counts change while its copy waits keeps its place', async () => {
    const rig = await rigFor(everythingBehindJunk().layout({ leaks: 3 }).build());
    const moves = await plannedMoves(rig);
    rig.recycler.begin(moves);
    await rig.recycler.copy();
    const block = rig.volume.image.refcounts.blocks[0]! / 512;
    expect(rig.recycler.moveState(block)).toBe(MoveState.copied);
    // Erasing a leaked cluster lowers its count.
    await rig.recycler.erase(100, false);
    expect(rig.recycler.moveState(block)).toBeUndefined();
    await rig.recycler.writeCounts();
    for (const step of STEPS.slice(1)) await takeStep(rig, step);
    await rig.recycler.writeCounts();
    rig.expectUnharmed();
    expect(inspect(rig.memory.bytes()).leaks).toBe(0);
  });
});

describe('completion', () => {
  test('C30: the source is leaving from the rewrite on, and junk after the barrier, not before', async () => {
    const rig = await rigFor(everythingBehindJunk().build());
    const moves = await plannedMoves(rig);
    const inAll = (state: State) => [...moves.sources].every((source) => rig.volume.map.is(source, state));
    await runRound(rig, moves, (step) => {
      if (step === 'update') expect(inAll(State.leaving)).toBe(true);
      else if (step === 'barrier B') {
        expect(inAll(State.junk)).toBe(true);
        expect([...moves.destinations].every((cluster) => rig.volume.map.is(cluster, State.live))).toBe(true);
      } else expect(inAll(State.live)).toBe(true);
    });
  });

  test('C30: a barrier completes nothing that is not referenced', async () => {
    for (const state of ['copying', 'copied', 'flushed'] as const) {
      const { rig, source } = await moveIn(state);
      for (let i = 0; i < 3; i++) await rig.recycler.flush();
      expect(rig.recycler.moveState(source)).toBe(
        state === 'copying' ? MoveState.copying : MoveState.flushed,
      );
      expect(rig.volume.map.is(source, State.live)).toBe(true);
    }
  });

  test('C30: a source cannot be erased before its move is complete, whatever is erased when', async () => {
    const rig = await rigFor(everythingBehindJunk().build());
    const moves = await plannedMoves(rig, 8);
    await runRound(rig, moves, async (step) => {
      await rig.recycler.erase(1000, false);
      if (step !== 'barrier B') {
        for (const source of moves.sources) expect(rig.volume.map.is(source, State.erased)).toBe(false);
      }
      rig.expectUnharmed();
    });
  });

  test('a run in many rounds copies each cluster that has to move once', async () => {
    const rig = await rigFor(dataBehindJunk().build());
    const destinations = clustersIn(rig, State.junk).slice(0, 10);
    await compactDevice(rig.gate, { roundBytes: 512, runtimeAsserts: true });
    const writes = writesIn(rig.recorder.log).flatMap(({ offset, bytes }) =>
      Array.from({ length: bytes.length / 512 }, (_, i) => offset / 512 + i),
    );
    for (const cluster of destinations)
      expect(writes.filter((written) => written === cluster)).toHaveLength(1);
  });
});
