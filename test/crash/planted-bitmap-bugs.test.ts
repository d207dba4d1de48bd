/** What a move of bitmaps can get wrong is found out by the crash tests. */
import { expect, test } from 'vitest';
import type { Modification, Operation } from '../../src/device/recording-device.js';
import { layoutOf } from './kinds.js';
import { healthy, not, pairwise, type Round, writesHeader } from './planted-bugs.js';
import { countCaught, regularRuns, type RegularRun } from './regular-runs.js';

const SEED = Number(process.env.SEED ?? 1);
const RUNS = 40;

/** A disk of no bytes has none. */
const runs = regularRuns(RUNS, SEED, { version: 3, bitmaps: true }).then((all) =>
  all.filter(({ initial }) => layoutOf(initial).bitmaps !== null),
);

/** Clusters that hold the directory, tables and bits, by their host offsets. */
interface Places {
  directory: Set<number>;
  tables: Set<number>;
  bits: Set<number>;
}

function placesOf(bytes: Uint8Array): Places {
  const { view, clusterSize, bitmaps: found } = layoutOf(bytes);
  const { directoryOffset, directoryLength, bitmaps } = found!;
  const spread = (offset: number, length: number) =>
    Array.from({ length: Math.ceil(length / clusterSize) }, (_, index) => offset + index * clusterSize);
  const entries = bitmaps.flatMap(({ tableOffset, tableEntries }) =>
    Array.from({ length: tableEntries }, (_, index) => Number(view.getBigUint64(tableOffset + index * 8))),
  );
  return {
    directory: new Set(spread(directoryOffset, directoryLength)),
    tables: new Set(
      bitmaps.flatMap(({ tableOffset, tableEntries }) => spread(tableOffset, tableEntries * 8)),
    ),
    bits: new Set(entries.filter((entry) => entry > 1)),
  };
}

const touches = (places: Set<number>) => (operation: Modification) =>
  operation.kind === 'write' &&
  [...places].some(
    (offset) => offset < operation.offset + operation.bytes.length && operation.offset < offset + 512,
  );

/** The rounds with `change` made to each of them. */
const each = (rounds: readonly Round[], change: (round: Round) => void) => pairwise(rounds, change);

/** Each by the places of the bitmaps before the run and after it. */
const BUGS: Record<string, (rounds: readonly Round[], before: Places, after: Places) => Operation[]> = {
  'the bits are not copied': (rounds, before, after) =>
    each(rounds, (round) => {
      round.copy = round.copy.filter(not(touches(newIn(after.bits, before.bits))));
    }),
  'a table is not copied': (rounds, before, after) =>
    each(rounds, (round) => {
      round.copy = round.copy.filter(not(touches(newIn(after.tables, before.tables))));
    }),
  'the directory is not copied': (rounds, before, after) =>
    each(rounds, (round) => {
      round.copy = round.copy.filter(not(touches(newIn(after.directory, before.directory))));
    }),
  'the slots of a table that stays are forgotten': (rounds, before, after) =>
    each(rounds, (round) => {
      round.update = round.update.filter(not(touches(inBoth(after.tables, before.tables))));
    }),
  'the slots of a directory that stays are forgotten': (rounds, before, after) =>
    each(rounds, (round) => {
      round.update = round.update.filter(not(touches(inBoth(after.directory, before.directory))));
    }),
  'the directory is switched in the window of its copy': (rounds, before, after) =>
    each(rounds, (round) => {
      if (!round.copy.some(touches(newIn(after.directory, before.directory)))) return;
      round.copy = [...round.copy, ...round.update.filter(writesHeader)];
      round.update = round.update.filter(not(writesHeader));
    }),
  'a table is switched in the window of its copy': (rounds, before, after) =>
    each(rounds, (round) => {
      const switches = touches(after.directory);
      if (!round.copy.some(touches(newIn(after.tables, before.tables)))) return;
      round.copy = [...round.copy, ...round.update.filter(switches)];
      round.update = round.update.filter(not(switches));
    }),
};

function newIn(after: Set<number>, before: Set<number>): Set<number> {
  return new Set([...after].filter((offset) => !before.has(offset)));
}

function inBoth(after: Set<number>, before: Set<number>): Set<number> {
  return new Set([...after].filter((offset) => before.has(offset)));
}

test('taken apart and put together again, a log is what the engine wrote', async () => {
  for (const { log, rounds } of await runs) {
    expect([{ kind: 'flush' }, ...healthy(rounds)]).toEqual(log);
  }
});

test.each(Object.keys(BUGS))('caught: %s', async (bug) => {
  const plant = ({ rounds, initial, final }: RegularRun) =>
    BUGS[bug]!(rounds, placesOf(initial), placesOf(final));
  const { planted, caught } = countCaught(bug, await runs, plant);
  expect(planted).toBeGreaterThan(2);
  expect(caught).toBeGreaterThan(planted / 2);
});
