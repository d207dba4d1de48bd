/** Random clients on a recorded disk, and the judge of every crash that may have struck it. */
import { expect } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { type Operation, RecordingDevice } from '../../src/device/recording-device.js';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { crashStates, windows } from '../support/crash-simulator.js';
import { inspect } from '../support/oracle.js';
import { checkBuiltImage } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { Clients, type Mix } from './clients.js';
import { History } from './history.js';
import { JitterDevice } from './jitter-device.js';
import { type DiskImage, compactUntil, contentOf, diskImage, findIn, hotOptions } from './model-run.js';
import { readSnapshots } from './snapshots.js';

export interface DiskRun {
  image: DiskImage;
  log: Operation[];
  final: Uint8Array;
  history: History;
  /** References that were updated since clusters moved. */
  moved: number;
  description: string;
}

export interface RunOptions {
  operations?: number;
  fillBytes?: number;
  mix?: Partial<Mix>;
  /** The recycler works beside the clients, with the smallest thresholds. */
  isHot?: boolean;
}

/** Random clients on a random image, or on the one given. */
export async function recordDisk(
  seed: number,
  image: DiskImage = diskImage(seed),
  { operations = 25, fillBytes, mix = {}, isHot = false }: RunOptions = {},
): Promise<DiskRun> {
  const random = new Random(seed ^ 0xc4a5);
  const clients: Mix = {
    clients: random.between(1, 4),
    mostBytes: random.pick([1500, 6000, 20_000]),
    flushes: random.pick([3, 10, 20]),
    ...mix,
  };
  const options = {
    fillBytes: fillBytes ?? random.pick([1, 4, 12]) * 512,
    cacheBytes: random.pick([0, 3000, 1 << 20]),
    findBacking: findIn(image.base),
    ...(isHot && hotOptions(random, seed)),
  };
  const memory = new MemoryDevice(image.bytes, { canPunch: random.chance(0.5) });
  const recording = new RecordingDevice(new JitterDevice(memory, seed));
  const disk = await Qcow2Disk.on(recording, options);
  const content = await contentOf(image.bytes, image.base);
  const history = new History(content, recording.log);
  let isOver = false;
  const compacting = isHot ? compactUntil(disk, () => isOver) : null;
  await new Clients(disk, content, seed, clients, history).run(operations).finally(() => (isOver = true));
  await compacting;
  if (isHot) await disk.compactNow();
  const moved = disk.recycler!.referencesUpdated;
  const begun = history.flushBegins();
  await disk.close();
  history.flushEnds(begun, null);
  const description = `seed ${seed}: ${JSON.stringify({ operations, ...clients, ...options, isHot })} ${image.description}`;
  return { image, log: recording.log, final: memory.bytes(), history, moved, description };
}

const ASK_QEMU_EVERY = 800;

export class DiskTally {
  states = 0;
  runs = 0;
  moved = 0;
  qemuChecks = 0;

  /** `path`: where what qemu-img is to judge is written. */
  constructor(private readonly path: string) {}

  /** Fails the test with the label of the first state that breaks a promise. */
  async judge(run: DiskRun, seed: number, subsetsPerWindow: number): Promise<void> {
    const flaw = await this.firstFlaw(run, seed, subsetsPerWindow);
    if (flaw !== null) expect.fail(`${flaw}\n  ${run.description}`);
  }

  async firstFlaw(
    { image, log, history, moved }: DiskRun,
    seed: number,
    subsetsPerWindow: number,
  ): Promise<string | null> {
    const ends = windows(log).map(({ first, operations }) => first + operations.length);
    const snapshots = readSnapshots(image.bytes);
    this.runs++;
    this.moved += moved;
    for (const { label, bytes } of crashStates(image.bytes, log, { seed, subsetsPerWindow })) {
      this.states++;
      const window = /window (\d+)/.exec(label)?.[1];
      const end = window === undefined ? 0 : ends[Number(window)]!;
      const flaw = await this.#flawOf(image, bytes, history, end, snapshots);
      if (flaw !== null) return `${flaw}\n  after a crash: ${label}`;
    }
    return null;
  }

  async #flawOf(
    image: DiskImage,
    state: Uint8Array,
    history: History,
    end: number,
    snapshots: string[],
  ): Promise<string | null> {
    const { corruptions } = inspect(state);
    if (corruptions.length > 0) return `corrupt: ${corruptions[0]}`;
    // Version, features and all that leads to other files: nothing marks the image as in use.
    if (Buffer.compare(state.subarray(0, 40), image.bytes.subarray(0, 40)) !== 0) return 'the header changed';
    if (Buffer.compare(state.subarray(72, 512), image.bytes.subarray(72, 512)) !== 0)
      return 'the header changed';
    const flaw = history.flawOf(await contentOf(state, image.base), end);
    if (flaw !== null) return flaw;
    if (this.states % 10 === 0 && readSnapshots(state).join() !== snapshots.join())
      return 'a snapshot changed';
    if (this.states % ASK_QEMU_EVERY !== 0) return null;
    this.qemuChecks++;
    const verdict = checkBuiltImage(this.path, state);
    return verdict.corruptions + verdict.errors === 0 ? null : `qemu-img check: ${JSON.stringify(verdict)}`;
  }

  report(): string {
    return `${this.states} crash states of ${this.runs} runs, ${this.moved} references updated, ${this.qemuChecks} also by qemu-img`;
  }
}
