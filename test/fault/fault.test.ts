/** Whatever operation of the host fails, the run ends with that error, and the image is as valid as before (I2, I10). */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { eraseDevice } from '../../src/compactor/erase.js';
import { type Fault, FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { errorCode } from '../../src/system-error.js';
import { type Kind, KINDS } from '../crash/kinds.js';
import { Judge } from '../crash/recorded-run.js';
import { secondRun } from '../crash/second-run.js';
import { crashStates } from '../support/crash-simulator.js';
import { secretOf } from '../support/luks.js';
import { scatteredImage } from '../support/scattered-image.js';

const CHANGES = ['write', 'truncate', 'punch', 'share'] as const;
/** Without the one whose run is so long that failing each of its operations takes minutes. */
const FAULT_KINDS = KINDS.filter(({ name }) => name !== 'one move a plan');

/** About half of the kinds run on a host that lets clusters share blocks instead of copying them. */
const shares = (name: string) => name.length % 2 === 0;

const FAULTS: Record<string, Fault> = {
  'EIO once': { code: 'EIO' },
  'EIO for good': { code: 'EIO', repeat: 'sticky' },
  'EIO of all that changes the file': {
    code: 'EIO',
    repeat: 'sticky',
    kinds: [...CHANGES, 'flush'],
    mode: 'short',
  },
  'EIO at a flush': { code: 'EIO', kinds: ['flush'] },
  'ENOSPC once': { code: 'ENOSPC', kinds: CHANGES },
  'ENOSPC once, after half a write': { code: 'ENOSPC', kinds: CHANGES, mode: 'short' },
  'ENOSPC for good': { code: 'ENOSPC', kinds: CHANGES, repeat: 'sticky' },
  'ENOSPC for good, after half a write': { code: 'ENOSPC', kinds: CHANGES, repeat: 'sticky', mode: 'short' },
};

/** Notes how long the log was when a flush failed. */
class FlushWatch extends FaultDevice {
  loggedAtFailure = -1;

  constructor(
    private readonly recording: RecordingDevice,
    fault: Fault,
  ) {
    super(recording, fault);
  }

  override flush(): Promise<void> {
    const before = this.failures;
    const flushed = super.flush();
    if (this.failures > before && this.loggedAtFailure < 0) this.loggedAtFailure = this.recording.log.length;
    return flushed;
  }
}

interface FaultyRun {
  device: FlushWatch;
  recording: RecordingDevice;
  bytes: Uint8Array;
  error: unknown;
}

async function runWith(
  initial: Uint8Array,
  { options, freeBytes, erase, name }: Kind,
  fault: Fault,
): Promise<FaultyRun> {
  const memory = new MemoryDevice(initial, { freeBytes, canShare: shares(name) });
  const recording = new RecordingDevice(memory);
  const device = new FlushWatch(recording, fault);
  const run: Promise<unknown> = erase
    ? eraseDevice(device, { ...erase, runtimeAsserts: true })
    : compactDevice(device, { ...secretOf(initial), ...options, runtimeAsserts: true });
  const error = await run.then(
    () => null,
    (reason: unknown) => reason,
  );
  return { device, recording, bytes: memory.bytes(), error };
}

describe.each(Object.entries(FAULTS))('%s', (_name, fault) => {
  test.each(FAULT_KINDS)('on an image with $name', async (kind) => {
    const initial = kind.image.build();
    const judge = new Judge(initial);
    let judged = initial;
    for (let failAt = 1; ; failAt++) {
      const { device, recording, bytes, error } = await runWith(initial, kind, { ...fault, failAt });
      if (device.failures === 0) {
        expect(error).toBeNull();
        expect(failAt).toBeGreaterThan(1);
        return;
      }
      const what = `operation ${failAt}`;
      // The error is the host's, as it came.
      expect(errorCode(error), what).toBe(fault.code);
      if (device.loggedAtFailure >= 0) {
        expect(recording.log.length, `${what}: written after a failed flush`).toBe(device.loggedAtFailure);
      }
      // A failed read leaves what the failure before it left.
      if (Buffer.compare(bytes, judged) === 0) continue;
      judged = bytes;
      expect(judge.flawOf(bytes), what).toBeNull();
      if (failAt % 3 === 0)
        expect((await secondRun(initial, bytes, judge, kind.options)).flaw, what).toBeNull();
    }
  });
});

describe('a crash after a failure', () => {
  const faults = [FAULTS['ENOSPC once, after half a write']!, FAULTS['EIO once']!];
  test.each(FAULT_KINDS)('on an image with $name', async (kind) => {
    const initial = kind.image.build();
    const judge = new Judge(initial);
    for (const fault of faults) {
      for (let failAt = 1; ; failAt += 7) {
        const { device, recording } = await runWith(initial, kind, { ...fault, failAt });
        if (device.failures === 0) break;
        // What matters is the end: how the run leaves the image after the failure.
        for (const { label, bytes } of crashStates(initial, recording.log, {
          seed: failAt,
          subsetsPerWindow: 5,
        })) {
          expect(judge.flawOf(bytes), `operation ${failAt}, ${label}`).toBeNull();
        }
      }
    }
  });
});

describe('a full disk', () => {
  const initial = scatteredImage().build();
  const kind = { name: 'x', options: { roundBytes: 4096 } } as Kind;

  test.each(['once', 'sticky'] as const)('keeps what earlier rounds gained (ENOSPC %s)', async (repeat) => {
    let inLaterRounds = 0;
    for (let failAt = 1; ; failAt++) {
      const fault: Fault = { code: 'ENOSPC', kinds: ['write'], mode: 'short', repeat, failAt };
      const { device, recording, bytes } = await runWith(initial, kind, fault);
      if (device.failures === 0) break;
      // Without the barrier before the first change.
      const barriers = recording.log.filter(({ kind }) => kind === 'flush').length - 1;
      const rounds = Math.floor(barriers / 2);
      // A disk that stays full cannot take the counts of the round just done, without which nothing is cut off.
      if (rounds < (repeat === 'once' ? 1 : 2)) continue;
      inLaterRounds++;
      expect(bytes.length, `write ${failAt}`).toBeLessThan(initial.length);
    }
    expect(inLaterRounds).toBeGreaterThan(5);
  });
});

/** Aborts the signal after so many operations. */
class AbortingDevice extends FaultDevice {
  readonly controller = new AbortController();

  constructor(
    readonly memory: MemoryDevice,
    private readonly abortAfter: number,
  ) {
    super(memory);
  }

  async #counted<Result>(operation: Promise<Result>): Promise<Result> {
    const result = await operation;
    if (this.operations >= this.abortAfter) this.controller.abort();
    return result;
  }

  override read(target: Uint8Array, offset: number): Promise<void> {
    return this.#counted(super.read(target, offset));
  }

  override write(source: Uint8Array, offset: number): Promise<void> {
    return this.#counted(super.write(source, offset));
  }

  override flush(): Promise<void> {
    return this.#counted(super.flush());
  }

  override truncate(lengthBytes: number): Promise<void> {
    return this.#counted(super.truncate(lengthBytes));
  }

  override punch(offset: number, lengthBytes: number): Promise<void> {
    return this.#counted(super.punch(offset, lengthBytes));
  }
}

describe('aborted after each operation', () => {
  test.each(FAULT_KINDS)('on an image with $name', async ({ image: builder, options, freeBytes, erase }) => {
    const initial = builder.build();
    const judge = new Judge(initial);
    let interrupted = 0;
    let judged = initial;
    for (let abortAfter = 1; ; abortAfter++) {
      const device = new AbortingDevice(new MemoryDevice(initial, { freeBytes }), abortAfter);
      const { signal } = device.controller;
      const { outcome } = erase
        ? await eraseDevice(device, { ...erase, signal, runtimeAsserts: true })
        : await compactDevice(device, { ...secretOf(initial), ...options, signal, runtimeAsserts: true });
      if (!signal.aborted) break;
      const what = `operation ${abortAfter}`;
      interrupted += outcome === 'interrupted' ? 1 : 0;
      const bytes = device.memory.bytes();
      if (Buffer.compare(bytes, judged) === 0) continue;
      judged = bytes;
      expect(judge.flawOf(bytes), what).toBeNull();
      // What has to move without getting nearer to the front may need a round's room behind the end (I10).
      const { clusterSize } = judge;
      const room = Math.ceil((options?.roundBytes ?? 0) / clusterSize);
      expect(Math.ceil(bytes.length / clusterSize), what).toBeLessThanOrEqual(
        Math.ceil(initial.length / clusterSize) + room,
      );
      const { flaw, split } = await secondRun(initial, bytes, judge, options);
      expect(flaw, what).toBeNull();
      // Stopping is not crashing: no shared cluster is left in two places.
      expect(split, what).toBe(false);
    }
    expect(interrupted).toBeGreaterThan(0);
  });
});
