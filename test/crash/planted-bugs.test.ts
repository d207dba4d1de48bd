/** The crash tests can fail: what a buggy engine would have written is found out. */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import type { Operation } from '../../src/device/recording-device.js';
import { crashStates } from '../support/crash-simulator.js';
import { image } from '../support/image-builder.js';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import { healthy, PLANTED, roundsOf } from './planted-bugs.js';
import { Judge, recordCompaction } from './recorded-run.js';

const SEED = Number(process.env.SEED ?? 1);
const RUNS = 40;

interface Sample {
  seed: number;
  initial: Uint8Array;
  log: readonly Operation[];
  rounds: NonNullable<ReturnType<typeof roundsOf>>;
}

/** Runs on random images that are nothing but rounds, so that each window's part in them is known. */
async function regularRuns(count: number): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let seed = SEED; samples.length < count; seed++) {
    const layout = { shuffle: true, junk: 30, extraRefcountTableClusters: 0, blocksPastEnd: 0 };
    const { bytes } = randomImage(seed, { clusterBits: 9, maxClusters: 60, layout });
    const { log, result } = await recordCompaction(bytes, { roundBytes: 4096 });
    const rounds = result.rounds < 2 ? null : roundsOf(bytes, log, result.rounds);
    if (rounds !== null) samples.push({ seed, initial: bytes, log, rounds });
  }
  return samples;
}

function firstFlaw(initial: Uint8Array, log: readonly Operation[], seed: number): string | null {
  const judge = new Judge(initial);
  for (const { label, bytes } of crashStates(initial, log, { seed, subsetsPerWindow: 40 })) {
    const flaw = judge.flawOf(bytes);
    if (flaw !== null) return `${flaw} (${label})`;
  }
  return null;
}

const samples = regularRuns(RUNS);

test('taken apart and put together again, a log is what the engine wrote', async () => {
  for (const { initial, log, rounds, seed } of await samples) {
    expect([{ kind: 'flush' }, ...healthy(rounds)]).toEqual(log);
    expect(firstFlaw(initial, log, seed), `seed ${seed}`).toBeNull();
  }
});

test.each(Object.keys(PLANTED))('caught: %s', async (bug) => {
  let planted = 0;
  let caught = 0;
  const flaws = new Set<string>();
  for (const { initial, log, rounds, seed } of await samples) {
    const buggy = PLANTED[bug]!(rounds);
    if (buggy.length === log.length && buggy.every((operation, index) => isSame(operation, log[index]!)))
      continue;
    planted++;
    const flaw = firstFlaw(initial, buggy, seed);
    if (flaw === null) continue;
    caught++;
    flaws.add(flaw.replace(/\d+/g, 'n').split(/[:(,]/)[0]!);
  }
  console.log(`${bug}: caught in ${caught} of ${planted} runs (${[...flaws].join('; ')})`);
  expect(planted).toBeGreaterThan(0);
  expect(caught).toBeGreaterThan(planted / 2);
});

function isSame(one: Operation, other: Operation): boolean {
  return one === other || (one.kind === 'flush' && other.kind === 'flush');
}

/** Says that all went well, but the k-th write never reaches the file. */
class LosingDevice extends MemoryDevice {
  writes = 0;
  lost: { bytes: Uint8Array; before: Uint8Array } | null = null;

  constructor(
    initial: Uint8Array,
    private readonly loses: number,
  ) {
    super(initial);
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    this.writes += 1;
    if (this.writes !== this.loses) return super.write(source, offset);
    const before = new Uint8Array(source.length);
    await super.read(before, offset);
    this.lost = { bytes: source.slice(), before };
  }
}

test('caught: a device that silently loses a write', async () => {
  const bytes = image({ virtualSize: 64 << 10 })
    .writeRange(0, 20)
    .snapshot('a')
    .writeRange(2, 5)
    .layout({ shuffle: true, junk: 25, leaks: 3 })
    .build();
  const judge = new Judge(bytes);
  const minimal = minimalClusterCount(bytes);
  let missed = 0;
  let lost = 0;
  for (let k = 1; ; k++) {
    const device = new LosingDevice(bytes, k);
    const failed = await compactDevice(device, { roundBytes: 4096 }).then(
      () => false,
      () => true,
    );
    if (device.writes < k) break;
    if (device.lost === null || Buffer.compare(device.lost.bytes, device.lost.before) === 0) continue;
    lost++;
    const { leaks, staleRefcountsPastEnd, clusterCount } = inspect(device.bytes());
    const clean = leaks + staleRefcountsPastEnd === 0 && clusterCount === minimal;
    if (!failed && clean && judge.flawOf(device.bytes()) === null) missed++;
  }
  console.log(`${lost - missed} of ${lost} lost writes show in the result`);
  // Counts that are raised and lowered again are overwritten before the end.
  expect(missed).toBeLessThan(lost / 3);
  expect(lost).toBeGreaterThan(20);
});
