/** A repair that is stopped leaves the image no worse than it was, and says what is left. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { repairDevice } from '../../src/compactor/repair.js';
import { ForwardingDevice } from '../../src/device/forwarding-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { QcowError } from '../../src/errors.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { crashStates } from '../support/crash-simulator.js';
import { image } from '../support/image-builder.js';
import { secretOf } from '../support/luks.js';
import { inspect } from '../support/oracle.js';
import { buildDamaged, REPAIR_KINDS } from '../crash/repair-kinds.js';

/** Asks for an end after the k-th flush. */
class AbortingDevice extends ForwardingDevice {
  readonly controller = new AbortController();
  #flushes = 0;

  constructor(
    inner: MemoryDevice,
    private readonly abortAt: number,
  ) {
    super(inner);
  }

  override async flush(): Promise<void> {
    await super.flush();
    if (++this.#flushes === this.abortAt) this.controller.abort();
  }
}

test.each(REPAIR_KINDS)('stopped at each barrier: $name', async (kind) => {
  const { bytes } = buildDamaged(kind, 1);
  const before = inspect(bytes);
  let stops = 0;
  for (let abortAt = 1; abortAt < 8; abortAt++) {
    const memory = new MemoryDevice(bytes);
    const device = new AbortingDevice(memory, abortAt);
    const { outcome, leaks, corruptions } = await repairDevice(device, { signal: device.controller.signal });
    if (outcome !== 'interrupted') continue;
    stops++;
    const after = inspect(memory.bytes());
    const faults = after.corruptions.filter((line) => !line.startsWith('header: incompatible features'));
    expect(after.corruptions.length).toBeLessThanOrEqual(before.corruptions.length);
    expect(corruptions === 0).toBe(faults.length === 0);
    if (corruptions === 0) expect(leaks).toBe(after.leaks);
  }
  expect(stops).toBeGreaterThan(0);
});

/** Counts that are too high, of data that only a move can put right. */
function leaky() {
  return image({ encryption: 2, unlockable: true, virtualSize: 64 << 10, seed: 3 })
    .writeRange(0, 12)
    .snapshot('a')
    .deleteSnapshot('a', { interrupted: true })
    .layout({ junk: 6 })
    .build();
}

describe('leaks of an image with LUKS', () => {
  test('with the secret a compaction reclaims them by moves, under --repair too: valid at every instant', async () => {
    const bytes = leaky();
    const memory = new MemoryDevice(bytes);
    const device = new RecordingDevice(memory);
    const options = { repair: 'all' as const, ...secretOf(bytes) };
    expect(await compactDevice(device, options)).toMatchObject({ repaired: null, leaksLeft: 0 });
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
    for (const state of crashStates(bytes, device.log, { seed: 1, subsetsPerWindow: 100 }))
      expect(inspect(state.bytes).corruptions, state.label).toEqual([]);
  });

  test('without it a compaction leaves them, and a repair alone puts them right in place', async () => {
    const memory = new MemoryDevice(leaky());
    const { leaksLeft } = await compactDevice(memory, { repair: 'all' });
    expect(leaksLeft).toBeGreaterThan(0);
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: leaksLeft });
    expect(await repairDevice(memory)).toMatchObject({ outcome: 'repaired', leaks: 0, corruptions: 0 });
    expect(inspect(memory.bytes())).toMatchObject({ corruptions: [], leaks: 0 });
  });

  test('a wrong secret is told before anything is repaired', async () => {
    const bytes = leaky();
    // Marked dirty.
    bytes[79]! |= 1;
    const memory = new MemoryDevice(bytes);
    const error = await compactDevice(memory, { repair: 'all', secret: 'wrong' }).catch(
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(QcowError);
    expect(error).toMatchObject({ code: 'WRONG_SECRET' });
    expect(Buffer.compare(memory.bytes(), bytes)).toBe(0);
    expect((await compactDevice(memory, { repair: 'all', ...secretOf(bytes) })).repaired).not.toBeNull();
  });
});

test('a host that is full has the file as long as it was', async () => {
  const { bytes } = buildDamaged(REPAIR_KINDS[0]!, 1);
  class FullDevice extends MemoryDevice {
    override write(source: Uint8Array, offset: number): Promise<void> {
      const error = Object.assign(new Error('ENOSPC: no space left on device, write'), {
        code: 'ENOSPC',
        syscall: 'write',
      });
      if (offset + source.length > bytes.length + 512) return Promise.reject(error);
      return super.write(source, offset);
    }
  }
  const device = new FullDevice(bytes);
  const failed = await repairDevice(device).then(
    () => false,
    () => true,
  );
  // Where there is room before the end it does not fail.
  if (failed) expect(device.lengthBytes).toBe(bytes.length);
  else expect(inspect(device.bytes()).corruptions).toEqual([]);
});
