/** Recycler contract, section 5: what refers to a moved cluster is made to name its new place. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { Kind } from '../../src/image/host-clusters.js';
import { State } from '../../src/recycler/cluster-map.js';
import { MoveState } from '../../src/recycler/moves.js';
import { assertInSync } from '../../src/recycler/sync-check.js';
import { image } from '../support/image-builder.js';
import { guestView, inspect } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import {
  STEPS,
  type Rig,
  applied,
  bytesOf,
  clustersIn,
  expectSame,
  inOrder,
  isPending,
  movesFor,
  plannedMoves,
  rigFor,
  runRound,
  runToFixpoint,
  takeStep,
  writesIn,
} from './harness.js';

/** rt, rb, L1 at 1 to 3, two L2 tables at 4 and 5, junk from 6 to 25, data of both tables from 26. */
function twoTables() {
  const builder = image({ clusterBits: 9 });
  return builder
    .writeRange(0, 5)
    .writeRange(64, 5)
    .layout({ gap: 20, arrange: inOrder('refcount', 'L1', 'L2', 'junk', 'data') });
}
const TABLES = [4, 5] as const;

/** Everything lies behind the junk. */
function everythingBehindJunk() {
  return image({ clusterBits: 9 })
    .writeRange(0, 10)
    .snapshot('a')
    .writeRange(4, 3)
    .layout({ gap: 30, arrange: inOrder('junk') });
}

async function upTo(rig: Rig, stepCount: number, moves?: Awaited<ReturnType<typeof plannedMoves>>) {
  const begun = moves ?? (await plannedMoves(rig));
  rig.recycler.begin(begun);
  for (const step of STEPS.slice(0, stepCount)) await takeStep(rig, step);
  return begun;
}

function dataUnder({ volume, clusterBytes }: Rig, table: number, bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset + table * clusterBytes, clusterBytes);
  const found: number[] = [];
  for (let at = 0; at < clusterBytes; at += 8) {
    const offset = view.getUint32(at + 4) & ~0x1ff;
    if (offset !== 0) found.push(offset / clusterBytes);
  }
  expect(found.every((cluster) => volume.clusters.kind(cluster) === Kind.data)).toBe(true);
  return found;
}

describe('updating references', () => {
  test('C32: only flushed moves take part', async () => {
    const rig = await rigFor(twoTables().build());
    const [first, second] = [26, 28];
    rig.recycler.begin(
      await movesFor(rig, [
        [first, 6],
        [second, 9],
      ]),
    );
    const gate = rig.gate.shut('write', 9 * 512, 512);
    const copying = rig.recycler.copy();
    await gate.arrived;
    await isPending(copying);
    expect(rig.recycler.moveState(first)).toBe(MoveState.copied);
    expect(await rig.recycler.updateReferences()).toBe(0);
    await rig.recycler.flush();
    expect(await rig.recycler.updateReferences()).toBe(1);
    expect(rig.recycler.moveState(first)).toBe(MoveState.referenced);
    expect(rig.recycler.moveState(second)).toBe(MoveState.copying);
    rig.expectUnharmed();
    gate.open();
    await copying;
    expect(await rig.recycler.updateReferences()).toBe(0);
    await rig.recycler.flush();
    expect(await rig.recycler.updateReferences()).toBe(1);
    await rig.recycler.flush();
    expect(rig.recycler.unfinishedMoves).toBe(false);
    await assertInSync(rig.volume);
    rig.expectUnharmed();
  });

  test('C32: a flushed cluster waits for the table that moves with it and is only copied', async () => {
    // A client's flush in the middle of the copying: data is flushed then, its L2 table is not.
    const rig = await rigFor(everythingBehindJunk().build());
    const moves = await plannedMoves(rig);
    const tables = [...moves.sources].filter((source) => rig.volume.clusters.kind(source) !== Kind.data);
    const data = [...moves.sources].filter((source) => rig.volume.clusters.kind(source) === Kind.data);
    const firstTable = moves.destinationOf(tables.find((c) => rig.volume.clusters.kind(c) === Kind.l2Table)!);
    rig.recycler.begin(moves);
    const gate = rig.gate.shut('write', firstTable * 512, 512);
    const copying = rig.recycler.copy();
    await gate.arrived;
    await rig.recycler.flush();
    gate.open();
    await copying;
    for (const source of data) expect(rig.recycler.moveState(source)).toBe(MoveState.flushed);
    for (const source of tables) expect(rig.recycler.moveState(source)).toBe(MoveState.copied);
    await rig.recycler.updateReferences();
    await rig.recycler.flush();
    await rig.recycler.writeCounts();
    rig.recycler.assertConsistent();
    await assertInSync(rig.volume);
    rig.expectUnharmed();
    await rig.recycler.updateReferences();
    await rig.recycler.flush();
    expect(rig.recycler.unfinishedMoves).toBe(false);
    await rig.recycler.writeCounts();
    await rig.recycler.truncate();
    rig.expectUnharmed();
  });

  test('C33: 1000 moves under 2 tables cost 2 reads and 2 writes', async () => {
    const builder = image({ clusterBits: 12, virtualSize: 1024 * 4096 }).writeRange(0, 1000);
    const arrange = inOrder('refcount', 'L1', 'L2', 'junk', 'data');
    const rig = await rigFor(builder.layout({ gap: 1000, arrange }).build());
    await upTo(rig, 2);
    const { log, reads } = rig.recorder;
    const before = log.length;
    expect(await rig.recycler.updateReferences()).toBe(1000);
    const offsets = writesIn(log.slice(before)).map(({ offset }) => Math.floor(offset / 4096));
    expect(offsets).toEqual([4, 5]);
    expect(rig.recorder.reads - reads).toBe(2);
  });

  test('C33: only sectors with a changed entry are written', async () => {
    const builder = image({ clusterBits: 16, virtualSize: 8192 * 65536 })
      .write(0)
      .write(8000);
    const arrange = inOrder('refcount', 'L1', 'L2', 'junk', 'data');
    const rig = await rigFor(builder.layout({ gap: 2, arrange }).build());
    await upTo(rig, 2);
    const before = rig.recorder.log.length;
    expect(await rig.recycler.updateReferences()).toBe(2);
    const writes = writesIn(rig.recorder.log.slice(before)).map(({ offset, bytes }) => [
      offset,
      bytes.length,
    ]);
    const table = 4 * 65536;
    expect(writes).toEqual([
      [table, 512],
      [table + Math.floor((8000 * 8) / 512) * 512, 512],
    ]);
  });

  test('C34: where an L2 table and its data move together the old one is never written', async () => {
    const rig = await rigFor(everythingBehindJunk().build());
    const moves = await plannedMoves(rig);
    // All but the refcount block: the destinations' counts are raised in it, at its old place too.
    const tables = [...moves.sources].filter((source) => {
      const kind = rig.volume.clusters.kind(source);
      return kind !== Kind.data && kind !== Kind.refcountBlock;
    });
    expect(tables.length).toBeGreaterThan(5);
    const old = tables.map((source) => bytesOf(rig, source));
    const l2 = tables.filter((source) => rig.volume.clusters.kind(source) === Kind.l2Table);
    const named = l2.map((table) => dataUnder(rig, table, rig.memory.bytes()));
    const expected = named.map((clusters) => clusters.map((cluster) => moves.destinationOf(cluster)));
    await runRound(rig, moves, (step) => {
      expect(tables.map((source) => bytesOf(rig, source))).toEqual(old);
      if (step !== 'update') return;
      for (const [i, table] of l2.entries()) {
        expect(dataUnder(rig, moves.destinationOf(table), rig.memory.bytes())).toEqual(expected[i]);
      }
    });
    rig.expectUnharmed();
  });

  test('C34: a table that moved in an earlier round is reached at its new place', async () => {
    // The L2 table is the last cluster: it moves first, one cluster a round.
    const bytes = image({ clusterBits: 9 })
      .writeRange(0, 10)
      .layout({ gap: 30, arrange: inOrder('refcount', 'L1', 'junk', 'data', 'L2') })
      .build();
    const rig = await rigFor(bytes);
    const table = bytes.length / 512 - 1;
    expect(rig.volume.clusters.kind(table)).toBe(Kind.l2Table);
    await compactDevice(rig.gate, { roundBytes: 512, runtimeAsserts: true });
    const touched = writesIn(rig.recorder.log).some(
      (write) => write.offset < bytes.length && write.offset + write.bytes.length > table * 512,
    );
    expect(touched).toBe(false);
    expectSame(guestView(bytes), rig.memory.bytes());
  });

  test('C35: a table held elsewhere is skipped, the others go on, and after some retries its moves are cancelled', async () => {
    const rig = await rigFor(twoTables().build());
    const moves = await upTo(rig, 2);
    expect(moves.length).toBe(10);
    const release = await rig.recycler.locks.shared(TABLES[0], 1);
    const waiting = dataUnder(rig, TABLES[0], rig.memory.bytes());
    const free = dataUnder(rig, TABLES[1], rig.memory.bytes());
    expect(await rig.recycler.updateReferences()).toBe(5);
    for (const source of free) expect(rig.recycler.moveState(source)).toBe(MoveState.referenced);
    for (const source of waiting) expect(rig.recycler.moveState(source)).toBe(MoveState.flushed);
    rig.recycler.assertConsistent();
    let calls = 1;
    while (rig.recycler.moveState(waiting[0]!) === MoveState.flushed && calls < 100) {
      expect(await rig.recycler.updateReferences()).toBe(0);
      calls++;
    }
    expect(calls).toBeGreaterThan(1);
    expect(calls).toBeLessThan(10);
    for (const source of waiting) {
      expect(rig.recycler.moveState(source)).toBeUndefined();
      expect(rig.volume.map.is(source, State.live)).toBe(true);
    }
    await rig.recycler.flush();
    expect(rig.recycler.unfinishedMoves).toBe(false);
    rig.expectUnharmed();
    release();
    await rig.recycler.writeCounts();
    await runRound(rig, await plannedMoves(rig));
    await rig.recycler.writeCounts();
    await rig.recycler.truncate();
    expect(rig.volume.map.clusterCount).toBe(16);
    rig.expectUnharmed();
  });

  test('C35: a retry that finds the table free goes through', async () => {
    const rig = await rigFor(twoTables().build());
    await upTo(rig, 2);
    const release = await rig.recycler.locks.exclusive(TABLES[1], 1);
    expect(await rig.recycler.updateReferences()).toBe(5);
    release();
    expect(await rig.recycler.updateReferences()).toBe(5);
    await rig.recycler.flush();
    expect(rig.recycler.unfinishedMoves).toBe(false);
    await assertInSync(rig.volume);
  });

  test.each(['the header', 'the snapshot table', 'the L1 table'])(
    'C35: %s held elsewhere blocks a table of several clusters as a whole, and what its copy names',
    async (held) => {
      const rig = await rigFor(
        image({ l1Size: 200 })
          .writeRange(0, 6)
          .snapshot('a')
          .writeRange(2, 2)
          .layout({ gap: 40, arrange: inOrder('refcount table', 'refcount', 'snapshot', 'junk') })
          .build(),
      );
      const moves = await upTo(rig, 2);
      const { header, snapshots } = rig.volume.image;
      const l1 = { 'the header': header.l1Offset, 'the snapshot table': snapshots[0]!.l1Offset }[held];
      const place = { 'the header': 0, 'the snapshot table': header.snapshotsOffset / 512 }[held];
      const release = await rig.recycler.locks.shared(place ?? header.l1Offset / 512, 1);
      await rig.recycler.updateReferences();
      for (let i = 0; i < 4 && l1 !== undefined; i++) {
        expect(rig.recycler.moveState(l1 / 512 + i)).toBe(MoveState.flushed);
      }
      await rig.recycler.flush();
      rig.recycler.assertConsistent();
      await assertInSync(rig.volume);
      rig.expectUnharmed();
      for (let i = 0; i < 10; i++) await rig.recycler.updateReferences();
      await rig.recycler.flush();
      expect(moves.unfinished).toBe(false);
      await rig.recycler.writeCounts();
      await assertInSync(rig.volume);
      rig.expectUnharmed();
      expect(inspect(rig.memory.bytes()).leaks).toBe(0);
      release();
    },
  );

  test('C36: no barrier comes between the first table write and the last', async () => {
    const rig = await rigFor(twoTables().build());
    const moves = await upTo(rig, 2);
    const gate = rig.gate.shut('write', TABLES[1] * 512, 512);
    const updating = rig.recycler.updateReferences();
    await gate.arrived;
    const { flushes } = rig.recorder;
    const flushing = rig.recycler.flush();
    expect(await isPending(flushing)).toBe(true);
    expect(rig.recorder.flushes).toBe(flushes);
    expect(moves.inState(MoveState.complete)).toEqual([]);
    gate.open();
    await updating;
    await flushing;
    expect(moves.inState(MoveState.complete)).toHaveLength(10);
  });

  test('C37: a move that is gone is skipped, its slot keeps naming the source', async () => {
    const rig = await rigFor(twoTables().build());
    await upTo(rig, 2);
    const [gone, ...others] = dataUnder(rig, TABLES[0], rig.memory.bytes());
    rig.recycler.cancel(gone!);
    expect(await rig.recycler.updateReferences()).toBe(9);
    const after = dataUnder(rig, TABLES[0], rig.memory.bytes().slice());
    expect(after[0]).toBe(gone);
    for (const source of others) expect(after).not.toContain(source);
    await assertInSync(rig.volume);
    rig.expectUnharmed();
  });

  test('C38: an entry that does not name the source is corruption: nothing is written there, the run stops', async () => {
    const rig = await rigFor(twoTables().build());
    await upTo(rig, 2);
    // Somebody else wrote to the table: its third entry leads elsewhere.
    const at = TABLES[0] * 512 + 16;
    await rig.memory.write(Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0x0c, 0), at);
    const table = bytesOf(rig, TABLES[0]);
    const before = rig.recorder.log.length;
    const failure = await rig.recycler.updateReferences().catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'CORRUPT' });
    expect(String(failure)).toMatch(/it names 0xc00, not 0x.*host offset 0x810/);
    expect(bytesOf(rig, TABLES[0])).toEqual(table);
    expect(writesIn(rig.recorder.log.slice(before))).toEqual([]);
    expect(rig.recycler.failure).toBe(failure);
    await expect(rig.recycler.flush()).rejects.toBe(failure);
    await expect(rig.recycler.truncate()).rejects.toBe(failure);
    expect(rig.recycler.locks.heldCount).toBe(0);
  });

  test('C39: every bit but 9 to 55 is kept', async () => {
    const rig = await rigFor(twoTables().build());
    const before = rig.memory.bytes();
    // Flags that the format knows and some that it does not know yet.
    const flags = [0x80, 0x00, 0xbf, 0x3f, 0x81].map(
      (high, i) => [high, [0, 1, 0xff, 0x100, 0x55][i]!] as const,
    );
    for (const [i, [high, low]] of flags.entries()) {
      const at = TABLES[0] * 512 + i * 8;
      const entry = before.slice(at, at + 8);
      entry[0] = high;
      entry[6] = entry[6]! | (low >> 8);
      entry[7] = low & 0xff;
      await rig.memory.write(entry, at);
    }
    const moves = await upTo(rig, 3);
    const after = bytesOf(rig, TABLES[0]);
    const old = dataUnder(rig, TABLES[0], rig.memory.bytes());
    for (const [i, [high, low]] of flags.entries()) {
      expect([after[i * 8], after[i * 8 + 1]]).toEqual([high, 0]);
      expect(((after[i * 8 + 6]! & 1) << 8) | after[i * 8 + 7]!).toBe(low);
      expect(moves.destinations).toContain(old[i]);
    }
  });

  test('C39: COPIED, ZERO and the stray flags of snapshots are kept in copies of tables too', async () => {
    const bytes = image({ clusterBits: 9, version: 3 })
      .writeRange(0, 8)
      .zero(3, { allocated: true })
      .zero(5)
      .snapshot('a')
      .write(0)
      .zero(1, { allocated: true })
      .layout({ gap: 40, strayCopied: true, arrange: inOrder('junk') })
      .build();
    const rig = await rigFor(bytes);
    const moves = await plannedMoves(rig);
    const l2 = [...moves.sources].filter((source) => rig.volume.clusters.kind(source) === Kind.l2Table);
    expect(l2).toHaveLength(2);
    const flagsIn = (cluster: number) => {
      const table = bytesOf(rig, cluster);
      return Array.from({ length: 64 }, (_, i) => [table[i * 8], table[i * 8 + 7]! & 1].join());
    };
    const before = l2.map(flagsIn);
    await runRound(rig, moves);
    expect(
      l2.map((table) => table).map((table) => flagsIn(moves.destinations[moves.sources.indexOf(table)]!)),
    ).toEqual(before);
    rig.expectUnharmed();
  });

  test('C40: the map rebuilt from the disk is equal to the live one after every step', async () => {
    let steps = 0;
    for (let seed = 100; seed < 130; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 120 });
      const rig = await rigFor(bytes);
      try {
        await runToFixpoint(rig, async () => {
          steps++;
          rig.recycler.assertConsistent();
          await assertInSync(rig.volume);
        });
      } catch (error) {
        throw new Error(description, { cause: error });
      }
      rig.expectUnharmed();
    }
    expect(steps).toBeGreaterThan(100);
  });

  test.each([0, 1, 2])(
    'C41: a table that changes after %i steps stays, and a further round moves it',
    async (done) => {
      const rig = await rigFor(everythingBehindJunk().build());
      const moves = await upTo(rig, done);
      const table = [...moves.sources].find((source) => rig.volume.clusters.kind(source) === Kind.l2Table)!;
      rig.recycler.tableChanged(table);
      expect(rig.recycler.moveState(table)).toBeUndefined();
      for (const step of STEPS.slice(done)) await takeStep(rig, step);
      expect(rig.volume.clusters.kind(table)).toBe(Kind.l2Table);
      await assertInSync(rig.volume);
      rig.expectUnharmed();
      await rig.recycler.writeCounts();
      const next = await plannedMoves(rig);
      expect(next.sources).toContain(table);
      await runRound(rig, next);
      await assertInSync(rig.volume);
      rig.expectUnharmed();
    },
  );

  test('C42: the answer is the number of entries that name a new place, and a flush is called for', async () => {
    const shared = image({ clusterBits: 9 }).writeRange(0, 6).snapshot('a').write(0);
    const arrange = inOrder('refcount', 'snapshot', 'L1', 'L2', 'junk', 'data');
    const rig = await rigFor(shared.layout({ gap: 20, arrange }).build());
    const moves = await upTo(rig, 2);
    expect(moves.length).toBe(7);
    const { version } = rig.recycler.work;
    // Five clusters are named by both tables, two by one.
    expect(await rig.recycler.updateReferences()).toBe(12);
    expect(rig.recycler.referencesUpdated).toBe(12);
    expect(rig.recycler.work.version).toBeGreaterThan(version);
    expect(await rig.recycler.updateReferences()).toBe(0);
  });

  test('C43: whichever table write fails, all moves stay flushed and no barrier completes one', async () => {
    for (const build of [twoTables, everythingBehindJunk]) {
      const clean = await rigFor(build().build());
      await upTo(clean, 2);
      const first = clean.recorder.writes;
      await clean.recycler.updateReferences();
      const last = clean.recorder.writes;
      expect(last).toBeGreaterThan(first);
      for (let failAt = first + 1; failAt <= last; failAt++) {
        for (const mode of ['fail', 'short'] as const) {
          const rig = await rigFor(build().build(), { fault: { failAt, kinds: ['write'], mode } });
          const moves = await upTo(rig, 2);
          const refs = rig.volume.clusters.refs.slice();
          await expect(rig.recycler.updateReferences()).rejects.toMatchObject({ code: 'EIO' });
          expect(moves.inState(MoveState.flushed)).toHaveLength(moves.length);
          expect(rig.volume.clusters.refs).toEqual(refs);
          await expect(rig.recycler.flush()).rejects.toMatchObject({ code: 'EIO' });
          expect(moves.inState(MoveState.flushed)).toHaveLength(moves.length);
          for (const source of moves.sources) expect(rig.volume.map.is(source, State.live)).toBe(true);
          expect(rig.recycler.locks.heldCount).toBe(0);
          rig.expectUnharmed();
        }
      }
    }
  });

  test('C44: no lock stays held after any call, whatever failed', async () => {
    const bytes = everythingBehindJunk().layout({ leaks: 2 }).build();
    const clean = await rigFor(bytes);
    await runToFixpoint(clean, () => expect(clean.recycler.locks.heldCount).toBe(0));
    for (const kind of ['read', 'write', 'flush', 'truncate'] as const) {
      let failures = 0;
      for (let failAt = 1; failAt < 200; failAt++) {
        let rig: Rig;
        try {
          rig = await rigFor(bytes, { fault: { failAt, kinds: [kind] } });
        } catch {
          continue; // A read of the opening.
        }
        const failed = await runToFixpoint(rig, () => undefined).then(
          () => false,
          () => true,
        );
        expect(rig.recycler.locks.heldCount).toBe(0);
        expect(rig.recycler.metadata.busy).toBe(false);
        rig.expectUnharmed();
        if (!failed) break;
        failures++;
      }
      expect(failures).toBeGreaterThan(0);
    }
  });

  test('C45: what a pointer names has its count and its bytes on stable storage before it is written', async () => {
    for (let seed = 1; seed <= 25; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 100, clusterBits: 9 });
      const rig = await rigFor(bytes);
      await compactDevice(rig.gate, { roundBytes: 4096 });
      const view = guestView(bytes);
      let durable = bytes;
      let current = bytes;
      // Each write alone on top of what the last barrier made durable.
      for (const operation of rig.recorder.log) {
        if (operation.kind === 'flush') durable = current;
        else {
          const alone = applied(durable, operation);
          if (operation.kind === 'write' && operation.offset + operation.bytes.length <= durable.length) {
            expect(inspect(alone).corruptions, description).toEqual([]);
            expectSame(view, alone);
          }
          current = applied(current, operation);
        }
      }
      expect(Buffer.compare(current, rig.memory.bytes())).toBe(0);
    }
  });

  test('C45: the count of a destination is that of its source before any pointer names it', async () => {
    const rig = await rigFor(everythingBehindJunk().build());
    const moves = await upTo(rig, 2);
    const onDisk = await rigFor(rig.memory.bytes());
    for (const [i, source] of moves.sources.entries()) {
      const { refcounts } = onDisk.volume.image;
      expect(refcounts.get(moves.destinations[i]!)).toBe(refcounts.get(source));
    }
    expect(clustersIn(rig, State.copy)).toHaveLength(moves.length);
  });
});
