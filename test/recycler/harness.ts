/** A recycler over an image in memory, with every device between them that a test may want. */
import { expect } from 'vitest';
import { type Fault, FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice, type MemoryDeviceOptions } from '../../src/device/memory-device.js';
import { type Operation, RecordingDevice } from '../../src/device/recording-device.js';
import { openImage } from '../../src/image/image.js';
import { requireSound, walk } from '../../src/image/walk.js';
import { State } from '../../src/recycler/cluster-map.js';
import { reclaimLeaks } from '../../src/recycler/leaks.js';
import { type Goal, goalFor } from '../../src/recycler/goal.js';
import { Moves } from '../../src/recycler/moves.js';
import { planMoves } from '../../src/recycler/planner.js';
import { Recycler } from '../../src/recycler/recycler.js';
import { collectSlots } from '../../src/recycler/slot-collector.js';
import { createMissingBlocks, releaseUnneeded } from '../../src/recycler/structures.js';
import type { Transfer } from '../../src/recycler/transfer.js';
import { Volume } from '../../src/recycler/volume.js';
import type { BuiltUnit } from '../support/image-builder.js';
import { compareGuestView, guestView, inspect } from '../support/oracle.js';
import { GateDevice } from './gate-device.js';

export interface Rig {
  memory: MemoryDevice;
  recorder: RecordingDevice;
  gate: GateDevice;
  volume: Volume;
  recycler: Recycler;
  clusterBytes: number;
  /** Fails the test unless the image as it is now is sound and shows the guest what it showed at first. */
  expectUnharmed: () => void;
}

export async function rigFor(
  bytes: Uint8Array,
  {
    fault = {},
    memory: options = {},
    reencryption = null,
  }: { fault?: Fault; memory?: MemoryDeviceOptions; reencryption?: Transfer | null } = {},
): Promise<Rig> {
  const memory = new MemoryDevice(bytes, options);
  const recorder = new RecordingDevice(new FaultDevice(memory, fault));
  const gate = new GateDevice(recorder);
  const image = await openImage(gate);
  const walked = await walk(image);
  requireSound(walked);
  const volume = new Volume(image, walked.clusters, reencryption);
  const view = guestView(bytes);
  const expectUnharmed = () => expectSame(view, memory.bytes());
  const recycler = new Recycler(volume);
  return { memory, recorder, gate, volume, recycler, clusterBytes: volume.clusterBytes, expectUnharmed };
}

export function expectSame(view: ReturnType<typeof guestView>, bytes: Uint8Array): void {
  expect(inspect(bytes).corruptions).toEqual([]);
  expect(compareGuestView(view, bytes)).toBeNull();
}

/** For `arrange`: units whose name begins with the first word come first, and so on; the others last. */
export function inOrder(...words: string[]): (units: readonly BuiltUnit[]) => readonly BuiltUnit[] {
  const rank = ({ name }: BuiltUnit) => {
    const at = words.findIndex((word) => name.startsWith(word));
    return at < 0 ? words.length : at;
  };
  return (units) => [...units].sort((a, b) => rank(a) - rank(b));
}

/** Moves for these pairs, with their slots, ready to begin. */
export async function movesFor(
  { volume }: Rig,
  pairs: readonly (readonly [source: number, destination: number])[],
): Promise<Moves> {
  const sorted = [...pairs].sort(([a], [b]) => a - b);
  const sources = Uint32Array.from(sorted.map(([source]) => source));
  const destinations = Uint32Array.from(sorted.map(([, destination]) => destination));
  const { image, clusters } = volume;
  const [slots] = await collectSlots(image, clusters, sources, new Uint32Array(sources.length), 1);
  return new Moves(sources, destinations, slots!, (cluster) => clusters.needsFlag(cluster));
}

/** The moves of one whole plan as one round. */
export async function plannedMoves(rig: Rig, maxMoves?: number): Promise<Moves> {
  const { sources, destinations, extendBy } = planMoves(rig.volume, goalFor(rig.volume, 0), { maxMoves });
  if (extendBy > 0) await rig.recycler.extend(extendBy);
  return movesFor(
    rig,
    [...sources].map((source, i) => [source, destinations[i]!] as const),
  );
}

export const STEPS = ['copy', 'barrier A', 'update', 'barrier B'] as const;
export type Step = (typeof STEPS)[number];

/** Does one step of the round at hand. */
export async function takeStep({ recycler }: Rig, step: Step): Promise<void> {
  if (step === 'copy') await recycler.copy();
  else if (step === 'update') await recycler.updateReferences();
  else await recycler.flush();
}

/** The whole round of `moves`; `after` is called once more before its first step, with `begin`. */
export async function runRound(
  rig: Rig,
  moves: Moves,
  after: (step: Step | 'begin') => Promise<void> | void = () => undefined,
): Promise<void> {
  rig.recycler.begin(moves);
  await after('begin');
  for (const step of STEPS) {
    await takeStep(rig, step);
    await after(step);
  }
}

/** A compaction by hand, one plan a round, so that a test can look at every step. */
export async function runToFixpoint(
  rig: Rig,
  after: (step: Step | 'begin' | 'fit' | 'counts') => Promise<void> | void,
): Promise<void> {
  const goal = (): Goal => goalFor(rig.volume, 0);
  reclaimLeaks(rig.volume);
  for (let plans = 0; plans < 1000; plans++) {
    await createMissingBlocks(rig.recycler, goal());
    const released = await releaseUnneeded(rig.recycler, goal());
    await after('fit');
    const moves = await plannedMoves(rig);
    if (moves.length === 0 && released === 0) {
      await rig.recycler.writeCounts();
      await after('counts');
      await rig.recycler.truncate();
      await rig.recycler.flush();
      return;
    }
    if (moves.length > 0) await runRound(rig, moves, after);
    await rig.recycler.writeCounts();
    await after('counts');
  }
  throw new Error('no fixpoint');
}

/** Clusters in `state`. */
export function clustersIn({ volume: { map } }: Rig, state: State): number[] {
  const found: number[] = [];
  for (let cluster = 0; cluster < map.clusterCount; cluster++)
    if (map.is(cluster, state)) found.push(cluster);
  return found;
}

/** How many clusters are in each state. */
export function census({ volume: { map } }: Rig): Record<keyof typeof State, number> {
  const counts = Object.entries(State).map(([name, state]) => [name, map.countOf(state)]);
  return Object.fromEntries(counts) as Record<keyof typeof State, number>;
}

export function bytesOf({ memory, clusterBytes }: Rig, cluster: number): Uint8Array {
  return memory.bytes().slice(cluster * clusterBytes, (cluster + 1) * clusterBytes);
}

export type Write = Extract<Operation, { kind: 'write' }>;

export function writesIn(log: readonly Operation[]): Write[] {
  return log.filter((operation) => operation.kind === 'write');
}

/** Whether what was started is still under way after everything that could go on has gone on. */
export async function isPending(work: Promise<unknown>): Promise<boolean> {
  let pending = true;
  const settled = () => void (pending = false);
  work.then(settled, settled);
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  return pending;
}

/** The bytes after `operation` on top of `bytes`. */
export function applied(bytes: Uint8Array, operation: Operation): Uint8Array {
  if (operation.kind === 'flush') return bytes;
  if (operation.kind === 'truncate') {
    const cut = new Uint8Array(operation.length);
    cut.set(bytes.subarray(0, operation.length));
    return cut;
  }
  const length = operation.kind === 'write' ? operation.bytes.length : operation.length;
  const result = new Uint8Array(Math.max(bytes.length, operation.offset + length));
  result.set(bytes);
  if (operation.kind === 'write') result.set(operation.bytes, operation.offset);
  else result.fill(0, operation.offset, operation.offset + length);
  return result;
}
