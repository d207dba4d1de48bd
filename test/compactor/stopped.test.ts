/** A run that is stopped says why, and what it has left undone. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { eraseDevice } from '../../src/compactor/erase.js';
import { planDevice } from '../../src/compactor/plan.js';
import { repairDevice } from '../../src/compactor/repair.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { StoppableDevice } from '../../src/device/stoppable-device.js';
import { damage } from '../support/damage.js';
import { image } from '../support/image-builder.js';
import { Random } from '../support/random.js';
import { scatteredImage } from '../support/scattered-image.js';

const builder = scatteredImage();
const initial = builder.build();

const TIMEOUT = Object.assign(new Error('enough'), { name: 'TimeoutError' });

/** Aborts after so many barriers. */
class LimitedDevice extends MemoryDevice {
  readonly controller = new AbortController();
  #left: number;

  constructor(
    bytes: Uint8Array,
    barriers: number,
    private readonly reason?: unknown,
  ) {
    super(bytes);
    this.#left = barriers;
  }

  override async flush(): Promise<void> {
    await super.flush();
    if (--this.#left === 0) this.controller.abort(this.reason);
  }
}

describe('a compaction', () => {
  test.each([
    [undefined, 'interrupted'],
    [TIMEOUT, 'out-of-time'],
    [new DOMException('x', 'TimeoutError'), 'out-of-time'],
    [new Error('other'), 'interrupted'],
  ])('stopped for the reason %s ends as such', async (reason, outcome) => {
    const device = new LimitedDevice(initial, 4, reason);
    const { signal } = device.controller;
    expect(await compactDevice(device, { roundBytes: 4096, signal })).toMatchObject({ outcome });
  });

  test('says what is left to reclaim and to move, which is what the next run does', async () => {
    let between = 0;
    for (let barriers = 1; ; barriers++) {
      const device = new LimitedDevice(initial, barriers, TIMEOUT);
      const { signal } = device.controller;
      const stopped = await compactDevice(device, { roundBytes: 4096, signal });
      if (!signal.aborted || stopped.outcome === 'compacted') break;
      expect(stopped.outcome).toBe('out-of-time');
      const next = await compactDevice(new MemoryDevice(device.bytes()), { roundBytes: 4096 });
      expect(next.lengthBefore - next.lengthAfter).toBe(stopped.bytesLeftToReclaim);
      expect(next.bytesMoved).toBe(stopped.bytesLeftToMove);
      if (stopped.bytesMoved > 0 && next.bytesMoved > 0) {
        between++;
        expect(stopped.lengthAfter).toBeLessThan(stopped.lengthBefore);
      }
    }
    expect(between).toBeGreaterThan(3);
  });

  test('that comes to its end has nothing left', async () => {
    const result = await compactDevice(new MemoryDevice(initial), { signal: new AbortController().signal });
    expect(result).toMatchObject({ outcome: 'compacted', bytesLeftToReclaim: 0, bytesLeftToMove: 0 });
  });
});

test('an erasure out of time says how many clusters are left', async () => {
  const whole = await eraseDevice(new MemoryDevice(initial));
  expect(whole).toMatchObject({ outcome: 'erased', clustersLeft: 0 });
  const controller = new AbortController();
  controller.abort(TIMEOUT);
  const result = await eraseDevice(new MemoryDevice(initial), { signal: controller.signal });
  expect(result).toMatchObject({
    outcome: 'out-of-time',
    clustersErased: 0,
    clustersLeft: whole.clustersErased,
  });
});

test('a repair out of time is not an interrupted one', async () => {
  const { bytes } = damage(new Random(1), builder.build(), ['lowerCounts', 'dirty']);
  const controller = new AbortController();
  controller.abort(TIMEOUT);
  const result = await repairDevice(new MemoryDevice(bytes), { signal: controller.signal });
  expect(result.outcome).toBe('out-of-time');
});

test('what only reads ends with the reason of the signal at the next read', async () => {
  const controller = new AbortController();
  const device = new StoppableDevice(new MemoryDevice(initial), controller.signal);
  await planDevice(device);
  controller.abort(TIMEOUT);
  await expect(planDevice(device)).rejects.toBe(TIMEOUT);
});

test('what a stopped run did not give up is not told as given up', async () => {
  const builder = image().write(9);
  for (let cluster = 0; cluster < 8; cluster++) builder.zero(cluster, { allocated: true });
  const bytes = builder.build();
  const signal = AbortSignal.abort();
  const device = new MemoryDevice(bytes);
  const stopped = await compactDevice(device, { dropPreallocation: true, signal });
  expect(stopped).toMatchObject({ outcome: 'interrupted', preallocationReleased: 0, bytesWritten: 0 });
  expect(Buffer.compare(device.bytes(), bytes)).toBe(0);
  expect(await compactDevice(device, { dropPreallocation: true })).toMatchObject({
    preallocationReleased: 8,
  });
});
