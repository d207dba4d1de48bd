/** Whatever operation of the host fails in a repair, it ends with that error, and another repair can begin. */
import { describe, expect, test } from 'vitest';
import { repairDevice } from '../../src/compactor/repair.js';
import type { RepairResult } from '../../src/compactor/types.js';
import { type Fault, FaultDevice } from '../../src/device/fault-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { errorCode } from '../../src/system-error.js';
import { RepairCrashJudge } from '../crash/repair-judge.js';
import { REPAIR_KINDS, buildDamaged } from '../crash/repair-kinds.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';

const CHANGES = ['write', 'truncate', 'punch'] as const;
const FAULTS: Record<string, Fault> = {
  'EIO once': { code: 'EIO' },
  'EIO for good': { code: 'EIO', repeat: 'sticky' },
  'EIO at a flush': { code: 'EIO', kinds: ['flush'] },
  'ENOSPC once, after half a write': { code: 'ENOSPC', kinds: CHANGES, mode: 'short' },
  'ENOSPC for good, after half a write': { code: 'ENOSPC', kinds: CHANGES, repeat: 'sticky', mode: 'short' },
};

describe.each(Object.entries(FAULTS))('%s', (_name, fault) => {
  test.each(REPAIR_KINDS)('in a repair of $name', async (kind) => {
    const { sound, bytes } = buildDamaged(kind, 1);
    const judge = new RepairCrashJudge(sound, bytes);
    for (let failAt = 1; ; failAt++) {
      const memory = new MemoryDevice(bytes);
      const device = new FaultDevice(memory, { ...fault, failAt });
      const error: unknown = await repairDevice(device).then(
        () => null,
        (reason: unknown) => reason,
      );
      const what = `operation ${failAt}`;
      if (device.failures === 0) {
        expect(error).toBeNull();
        expect(judge.flawOf(memory.bytes())).toBeNull();
        expect(failAt).toBeGreaterThan(1);
        return;
      }
      expect(errorCode(error), what).toBe(fault.code);
      expect(judge.crashFlawOf(memory.bytes()), what).toBeNull();
      expect(await judge.repairAgain(memory.bytes()), what).toBeNull();
    }
  });
});

/** Aborts after so many operations. */
class AbortingDevice extends FaultDevice {
  readonly controller = new AbortController();

  constructor(
    inner: MemoryDevice,
    private readonly abortAfter: number,
  ) {
    super(inner);
  }

  #count(): void {
    if (this.operations >= this.abortAfter) this.controller.abort();
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    await super.write(source, offset);
    this.#count();
  }

  override async flush(): Promise<void> {
    await super.flush();
    this.#count();
  }
}

async function repairAborted(
  bytes: Uint8Array,
  what: 'leaks' | 'all',
  abortAfter: number,
): Promise<{ result: RepairResult; aborted: boolean; bytes: Uint8Array }> {
  const memory = new MemoryDevice(bytes);
  const device = new AbortingDevice(memory, abortAfter);
  const { signal } = device.controller;
  const result = await repairDevice(device, { what, signal, roundBytes: 1024 });
  return { result, aborted: signal.aborted, bytes: memory.bytes() };
}

describe('aborted after each operation', () => {
  test.each(REPAIR_KINDS)('a repair of $name', async (kind) => {
    const { sound, bytes } = buildDamaged(kind, 1);
    const judge = new RepairCrashJudge(sound, bytes);
    for (let abortAfter = 1; ; abortAfter++) {
      const { result, aborted, bytes: left } = await repairAborted(bytes, 'all', abortAfter);
      const what = `operation ${abortAfter}`;
      if (!aborted) break;
      expect(judge.crashFlawOf(left), what).toBeNull();
      if (result.outcome === 'interrupted') {
        expect(result.marksCleared, what).toEqual([]);
        expect(await judge.repairAgain(left), what).toBeNull();
      } else expect(judge.flawOf(left), what).toBeNull();
    }
  });

  test('a repair of leaks keeps the file valid and its length', async () => {
    const sound = image({ virtualSize: 64 << 10, seed: 7 })
      .writeRange(0, 24)
      .snapshot('a')
      .deleteSnapshot('a', { interrupted: true })
      .layout({ junk: 30, junkAtEnd: 5 })
      .build();
    const judge = new RepairCrashJudge(sound, sound);
    let interrupted = 0;
    for (let abortAfter = 1; ; abortAfter++) {
      const { result, aborted, bytes } = await repairAborted(sound, 'leaks', abortAfter);
      expect(inspect(bytes).corruptions).toEqual([]);
      expect(judge.changeOf(bytes)).toBeNull();
      expect(bytes.length).toBe(sound.length);
      if (!aborted) break;
      if (result.outcome === 'interrupted') interrupted++;
    }
    expect(interrupted).toBeGreaterThan(3);
  });
});
