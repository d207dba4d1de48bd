/** Recorded runs whose windows are a regular row of rounds, and what comes of a bug planted in each of them. */
import type { Operation } from '../../src/device/recording-device.js';
import { crashStates } from '../support/crash-simulator.js';
import { type RandomImageOverrides, randomImage } from '../support/random-image.js';
import { healthy, roundsOf, type Round } from './planted-bugs.js';
import { Judge, recordCompaction } from './recorded-run.js';

export interface RegularRun {
  seed: number;
  initial: Uint8Array;
  log: readonly Operation[];
  final: Uint8Array;
  rounds: readonly Round[];
}

/** Runs on random images that are nothing but rounds, so that each window's part in them is known. */
export async function regularRuns(
  count: number,
  firstSeed: number,
  overrides: RandomImageOverrides = {},
): Promise<RegularRun[]> {
  const runs: RegularRun[] = [];
  for (let seed = firstSeed; runs.length < count; seed++) {
    const layout = { shuffle: true, junk: 30, extraRefcountTableClusters: 0, blocksPastEnd: 0 };
    const { bytes } = randomImage(seed, { clusterBits: 9, maxClusters: 60, layout, ...overrides });
    const { log, final, result } = await recordCompaction(bytes, { roundBytes: 4096 });
    const rounds = result.rounds < 2 ? null : roundsOf(bytes, log, result.rounds);
    if (rounds !== null) runs.push({ seed, initial: bytes, log, final, rounds });
  }
  return runs;
}

export function firstFlaw(initial: Uint8Array, log: readonly Operation[], seed: number): string | null {
  const judge = new Judge(initial);
  for (const { label, bytes } of crashStates(initial, log, { seed, subsetsPerWindow: 40 })) {
    const flaw = judge.flawOf(bytes);
    if (flaw !== null) return `${flaw} (${label})`;
  }
  return null;
}

/** In how many of the runs `plant` changes the log, and in how many of these the crash states show it. */
export function countCaught(
  bug: string,
  runs: readonly RegularRun[],
  plant: (run: RegularRun) => Operation[],
): { planted: number; caught: number } {
  let planted = 0;
  let caught = 0;
  const flaws = new Set<string>();
  for (const run of runs) {
    const buggy = plant(run);
    const sound = healthy(run.rounds);
    if (buggy.length === sound.length && buggy.every((operation, index) => isSame(operation, sound[index]!)))
      continue;
    planted++;
    const flaw = firstFlaw(run.initial, buggy, run.seed);
    if (flaw === null) continue;
    caught++;
    flaws.add(flaw.replace(/\d+/g, 'n').split(/[:(,]/)[0]!);
  }
  console.log(`${bug}: caught in ${caught} of ${planted} runs (${[...flaws].join('; ')})`);
  return { planted, caught };
}

function isSame(one: Operation, other: Operation): boolean {
  return one === other || (one.kind === 'flush' && other.kind === 'flush');
}
