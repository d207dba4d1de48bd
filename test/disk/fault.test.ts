/** Whatever operation of the host fails, the client hears of it, the image stays valid, and the rest of the disk goes on. */
import { describe, expect, test } from 'vitest';
import { type Fault, FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { errorCode } from '../../src/system-error.js';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { QcowError } from '../../src/errors.js';
import { crashStates } from '../support/crash-simulator.js';
import { inspect } from '../support/oracle.js';
import { Clients } from './clients.js';
import { History } from './history.js';
import { JitterDevice } from './jitter-device.js';
import { Random } from '../support/random.js';
import { type DiskImage, compactUntil, contentOf, diskImage, findIn, hotOptions } from './model-run.js';
import { readSnapshots } from './snapshots.js';

const SEED = Number(process.env.SEED ?? 1);
const CHANGES = ['write', 'truncate', 'punch'] as const;

const FAULTS: Record<string, Fault> = {
  'EIO once': { code: 'EIO' },
  'EIO of a read': { code: 'EIO', kinds: ['read'] },
  'EIO at a flush': { code: 'EIO', kinds: ['flush'] },
  'ENOSPC once, after half a write': { code: 'ENOSPC', kinds: CHANGES, mode: 'short' },
  'ENOSPC for good, after half a write': { code: 'ENOSPC', kinds: CHANGES, mode: 'short', repeat: 'sticky' },
};

/** Hears of errors, and holds them against what the host said. */
class FaultyHistory extends History {
  constructor(
    content: Uint8Array,
    log: RecordingDevice['log'],
    private readonly code: string,
  ) {
    super(content, log);
  }

  #judge(error: unknown): void {
    if (error === null) return;
    expect(error).toBeInstanceOf(QcowError);
    expect((error as QcowError).code).toBe(this.code === 'ENOSPC' ? 'NO_SPACE' : 'IO');
    expect(errorCode((error as QcowError).cause)).toBe(this.code);
  }

  override ends(begun: unknown, error: unknown): void {
    this.#judge(error);
    super.ends(begun, error);
  }

  override flushEnds(begun: unknown, error: unknown): void {
    this.#judge(error);
    super.flushEnds(begun, error);
  }

  readFails(error: unknown): void {
    this.#judge(error);
  }

  reads(offset: number, bytes: Uint8Array): string | null {
    return this.flawNow(bytes, offset);
  }
}

interface FaultyRun {
  device: FaultDevice;
  recording: RecordingDevice;
  history: FaultyHistory;
  disk: Qcow2Disk;
  /** Requests that failed, the closing included. */
  failures: number;
  closed: unknown;
  bytes: Uint8Array;
}

/** Opens without a fault: what `failAt` counts begins with the first request. */
async function runWith(
  image: DiskImage,
  fault: Fault,
  failAt: number,
  seed: number,
  isHot = false,
): Promise<FaultyRun> {
  const memory = new MemoryDevice(image.bytes);
  const recording = new RecordingDevice(new JitterDevice(memory, seed));
  const counting = new FaultDevice(recording, { ...fault });
  const opening = await Qcow2Disk.on(counting, { findBacking: findIn(image.base) });
  const before = counting.operations;
  await opening.close();
  const device = new FaultDevice(recording, { ...fault, failAt: before + failAt });
  const disk = await Qcow2Disk.on(device, {
    fillBytes: 2048,
    cacheBytes: 3000,
    findBacking: findIn(image.base),
    ...(isHot && { ...hotOptions(new Random(seed), seed), keepErased: 3 }),
  });
  const content = await contentOf(image.bytes, image.base);
  const history = new FaultyHistory(content, recording.log, fault.code!);
  const mix = { clients: 3, mostBytes: 6000, isAligned: true, flushes: 12 };
  const clients = new Clients(disk, content, seed, mix, history);
  let isOver = false;
  let compactionsFailed = 0;
  const compact = () =>
    compactUntil(disk, () => isOver).catch((error: unknown) => {
      expect(error).toBeInstanceOf(QcowError);
      compactionsFailed++;
    });
  const compacting = isHot ? compact() : null;
  await clients.run(30).finally(() => (isOver = true));
  await compacting;
  const inMemory = new Uint8Array(disk.sizeBytes);
  const unread = await disk.read(inMemory, 0).then(
    () => null,
    (error: unknown) => error,
  );
  if (unread === null) expect(history.flawNow(inMemory)).toBeNull();
  const closed = await disk.close().then(
    () => null,
    (error: unknown) => error,
  );
  const inBackground = compactionsFailed + disk.status()!.failures;
  const failures = clients.failures + inBackground + (unread === null ? 0 : 1) + (closed === null ? 0 : 1);
  return { device, recording, history, disk, failures, closed, bytes: memory.bytes() };
}

describe.each(Object.entries(FAULTS))('%s', (_, fault) => {
  test.each([SEED, SEED + 1, SEED + 2, SEED + 3, SEED + 4])('seed %i', async (seed) => {
    const image = diskImage(seed);
    const snapshots = readSnapshots(image.bytes);
    const leaks = inspect(image.bytes).leaks;
    for (let failAt = 1; ; failAt += 3) {
      const run = await runWith(image, fault, failAt, seed);
      const what = `operation ${failAt} of ${image.description}`;
      if (run.device.failures === 0) {
        expect(run.failures, what).toBe(0);
        expect(failAt, what).toBeGreaterThan(4);
        return;
      }
      expect(run.failures, what).toBeGreaterThan(0);
      const { corruptions, leaks: left } = inspect(run.bytes);
      expect(corruptions, what).toEqual([]);
      expect(readSnapshots(run.bytes), what).toEqual(snapshots);
      if (run.closed === null) {
        expect(left, what).toBeLessThanOrEqual(leaks);
        expect(run.history.flawNow(await contentOf(run.bytes, image.base)), what).toBeNull();
      }
      // The first one comes before the first change, of which nothing is made then.
      if (fault.kinds?.includes('flush') && failAt > 1) expect(run.disk.failure, what).not.toBeNull();
      if (failAt % 4 !== 0) continue;
      for (const { label, bytes } of crashStates(image.bytes, run.recording.log, {
        seed: failAt,
        subsetsPerWindow: 3,
      })) {
        expect(inspect(bytes).corruptions, `${what}, ${label}`).toEqual([]);
      }
    }
  });
});

/** Operations that one test leaves out between two that fail. */
const HOT_STEP = 11;

describe.each(Object.entries(FAULTS))('%s, while clusters move beside the clients', (_, fault) => {
  test.each([SEED, SEED + 1, SEED + 2])('seed %i', async (seed) => {
    const image = diskImage(seed);
    const snapshots = readSnapshots(image.bytes);
    for (let failAt = 1; ; failAt += HOT_STEP) {
      const run = await runWith(image, fault, failAt, seed, true);
      const what = `operation ${failAt} of ${image.description}`;
      if (run.device.failures === 0) {
        expect(run.failures, what).toBe(0);
        return;
      }
      // Some client hears of it, or who looks at what is done in the background.
      expect(run.failures, what).toBeGreaterThan(0);
      expect(inspect(run.bytes).corruptions, what).toEqual([]);
      expect(readSnapshots(run.bytes), what).toEqual(snapshots);
      if (run.closed === null)
        expect(run.history.flawNow(await contentOf(run.bytes, image.base)), what).toBeNull();
      for (const { label, bytes } of crashStates(image.bytes, run.recording.log, {
        seed: failAt,
        subsetsPerWindow: 1,
      })) {
        expect(inspect(bytes).corruptions, `${what}, ${label}`).toEqual([]);
      }
    }
  });
});
