import { describe, expect, test } from 'vitest';
import { ExtentSteps } from '../../src/recycler/extent-steps.js';
import { Random } from '../support/random.js';
import { extentsOf } from './extents-of.js';

const SECTOR = 512;

/** Takes all steps and checks each: sources lie untouched, and what is aside and what comes stay within the round. */
function walkThrough(ranges: [number, number][], targets: number[], roundBytes: number) {
  const extents = extentsOf(...ranges);
  const places = Float64Array.from(extents.offsets);
  const steps = new ExtentSteps(extents, Float64Array.from(targets), 4096, SECTOR);
  const isAside = new Set<number>();
  let asides = 0;
  let rounds = 0;
  for (let step = steps.next(roundBytes); step !== null; step = steps.next(roundBytes)) {
    expect(step.moving.length).toBeGreaterThan(0);
    rounds++;
    for (const extent of step.moving) {
      if (step.isAside) {
        expect(isAside.has(extent)).toBe(false);
        isAside.add(extent);
        asides++;
        continue;
      }
      for (const other of places.keys()) {
        if (isAside.has(other) || (other !== extent && places[other] === targets[other])) continue;
        const isApart =
          targets[extent]! + extents.lengths[extent]! <= places[other]! ||
          targets[extent]! >= places[other]! + extents.lengths[other]!;
        expect(isApart, `${extent} onto ${other}`).toBe(true);
      }
    }
    if (!step.isAside) {
      for (const extent of step.moving) {
        isAside.delete(extent);
        places[extent] = targets[extent]!;
      }
    }
    steps.taken(step);
  }
  expect([...places]).toEqual(targets);
  return { asides, rounds };
}

describe('steps', () => {
  test('one round for all that find their places clear', () => {
    expect(
      walkThrough(
        [
          [8192, 8704],
          [12288, 12800],
        ],
        [4096, 4608],
        1 << 20,
      ),
    ).toEqual({ asides: 0, rounds: 1 });
  });

  test('what would be copied over itself steps aside', () => {
    expect(walkThrough([[4608, 8192]], [4096], 1 << 20)).toEqual({ asides: 1, rounds: 2 });
  });

  test('towards the end of the file the last goes first', () => {
    const ranges: [number, number][] = [
      [4096, 8192],
      [8192, 12288],
      [12288, 16384],
    ];
    expect(walkThrough(ranges, [8192, 12288, 16384], 1 << 20).asides).toBe(0);
  });

  test('two that change places', () => {
    expect(
      walkThrough(
        [
          [4096, 8192],
          [8192, 12288],
        ],
        [8192, 4096],
        1 << 20,
      ).asides,
    ).toBe(1);
  });

  test('where a cluster cannot hold both, what is yet to leave it goes first', () => {
    const extents = extentsOf([4096, 4608], [8192, 8704]);
    const targets = Float64Array.from([512, 4608]);
    expect(new ExtentSteps(extents, targets, 4096, SECTOR).count(1 << 20)).toEqual({
      rounds: 1,
      bytes: 1024,
    });
    expect(new ExtentSteps(extents, targets, 4096, 4096).count(1 << 20)).toEqual({ rounds: 2, bytes: 1024 });
  });

  test('any order, in rounds of any size', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = new Random(seed);
      const count = random.between(1, 40);
      const lengths = Array.from({ length: count }, () => random.between(1, 8) * SECTOR);
      const rowOf = (order: readonly number[]) => {
        const starts: number[] = Array<number>(count).fill(0);
        let at = random.between(1, 40) * SECTOR;
        for (const i of order) {
          starts[i] = at;
          at += lengths[i]! + random.between(0, 3) * SECTOR;
        }
        return starts;
      };
      const inOrder = [...lengths.keys()];
      const offsets = rowOf(inOrder);
      const mixed = random.chance(0.5) ? inOrder : random.shuffle([...inOrder]);
      walkThrough(
        offsets.map((offset, i): [number, number] => [offset, offset + lengths[i]!]),
        rowOf(mixed),
        random.pick([512, 4096, 16384, 1 << 20]),
      );
    }
  });
});
