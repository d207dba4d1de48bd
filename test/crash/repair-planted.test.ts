/** Repairs that write in a wrong order, made from the log of the real one: the judge of crashes finds each. */
import { expect, test } from 'vitest';
import { repairDevice } from '../../src/compactor/repair.js';
import type { Modification, Operation } from '../../src/device/recording-device.js';
import { crashStates } from '../support/crash-simulator.js';
import { layoutOf } from './kinds.js';
import { REPAIR_KINDS, buildDamaged } from './repair-kinds.js';
import { RepairCrashJudge, recordRun } from './repair-judge.js';

const SEEDS = 6;

/** The windows of a repair that does all it can do. */
interface Windows {
  /** Wrongly set flags. */
  clear: Modification[];
  /** New refcount structures. */
  structures: Modification[];
  /** The header names them. */
  switching: Modification[];
  /** Missing flags. */
  set: Modification[];
  /** The header loses its marks. */
  marks: Modification[];
}

/** Null where the repair had less to do. */
function windowsOf(log: readonly Operation[], final: Uint8Array): Windows | null {
  const windows: Modification[][] = [[]];
  // The first barrier comes before the first change.
  for (const operation of log.slice(1)) {
    if (operation.kind === 'flush') windows.push([]);
    else windows.at(-1)!.push(operation);
  }
  const [first = [], switching = [], set = [], marks = [], rest = []] = windows;
  const table = first.findIndex(
    (operation) => operation.kind === 'write' && operation.offset === layoutOf(final).refcountTableOffset,
  );
  const found = { clear: first.slice(0, table), structures: first.slice(table), switching, set, marks };
  const hasAll = Object.values(found).every(({ length }) => length > 0);
  return hasAll && rest.length === 0 && windows.length === 5 ? found : null;
}

const PLANTED: Record<string, (windows: Windows) => Modification[][]> = {
  'the mark is cleared with the switch': ({ clear, structures, switching, set, marks }) => [
    [...clear, ...structures],
    [...switching, ...marks],
    set,
  ],
  'the mark is cleared before the flags are durable': ({ clear, structures, switching, set, marks }) => [
    [...clear, ...structures],
    switching,
    [...set, ...marks],
  ],
  'the mark is cleared first': ({ clear, structures, switching, set, marks }) => [
    marks,
    [...clear, ...structures],
    switching,
    set,
  ],
  'the switch does not wait for what it switches to': ({ clear, structures, switching, set, marks }) => [
    [...clear, ...structures, ...switching],
    set,
    marks,
  ],
  'flags are set before the counts are lowered': ({ clear, structures, switching, set, marks }) => [
    [...clear, ...structures, ...set],
    switching,
    marks,
  ],
  'flags are set while the counts are lowered': ({ clear, structures, switching, set, marks }) => [
    [...clear, ...structures],
    [...switching, ...set],
    marks,
  ],
  'wrong flags are cleared last': ({ clear, structures, switching, set, marks }) => [
    structures,
    switching,
    [...clear, ...set],
    marks,
  ],
};

const HEALTHY = ({ clear, structures, switching, set, marks }: Windows) => [
  [...clear, ...structures],
  switching,
  set,
  marks,
];

/** The first flaw in some run with what `plant` makes of it; null where there is none. */
async function findFlaw(plant: (windows: Windows) => Modification[][]): Promise<string | null> {
  let planted = 0;
  for (const kind of REPAIR_KINDS) {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const { sound, bytes } = buildDamaged(kind, seed);
      const { log, final } = await recordRun(bytes, (device) => repairDevice(device));
      const windows = log.length > 0 ? windowsOf(log, final) : null;
      if (windows === null) continue;
      planted++;
      const judge = new RepairCrashJudge(sound, bytes);
      const operations = plant(windows).flatMap((window): Operation[] => [...window, { kind: 'flush' }]);
      for (const { bytes: state } of crashStates(bytes, operations, { seed, subsetsPerWindow: 100 })) {
        const flaw = judge.crashFlawOf(state);
        if (flaw !== null) return flaw;
      }
    }
  }
  expect(planted).toBeGreaterThan(5);
  return null;
}

test('the order as it is has no flaw', async () => {
  expect(await findFlaw(HEALTHY)).toBeNull();
});

test.each(Object.entries(PLANTED))('%s', async (_name, plant) => {
  expect(await findFlaw(plant)).not.toBeNull();
});
