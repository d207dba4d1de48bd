import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { ForwardingDevice } from '../../src/device/forwarding-device.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RateLimiter } from '../../src/device/rate-limiter.js';
import { ThrottledDevice } from '../../src/device/throttled-device.js';
import { QcowError } from '../../src/errors.js';
import { scatteredImage } from '../support/scattered-image.js';
import { FakeClock } from './fake-clock.js';

const BURST_SECONDS = 0.5;

interface Passed {
  at: number;
  bytes: number;
}

/** Of every stretch of time from one passage to another: so much at most, but for the burst. */
function expectWithin(passed: readonly Passed[], rate: number): void {
  expect(passed.length).toBeGreaterThan(20);
  for (let from = 0; from < passed.length; from++) {
    let bytes = 0;
    for (const { at, bytes: more } of passed.slice(from + 1)) {
      bytes += more;
      expect(bytes).toBeLessThanOrEqual(rate * (at - passed[from]!.at + BURST_SECONDS) + 1);
    }
  }
}

describe('a limiter', () => {
  test('lets no more pass in any stretch of time than its rate, and a burst', async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, { clock });
    const passed: Passed[] = [];
    const worker = async (bytes: number, idle: number) => {
      for (let i = 0; i < 10; i++) {
        await limiter.take('read', bytes);
        passed.push({ at: clock.now(), bytes });
        await clock.sleep(idle);
      }
    };
    await Promise.all([worker(100, 0.01), worker(700, 0.5), worker(30, 0), worker(1, 3)]);
    expectWithin(passed, 1000);
  });

  test('is used to the full where there is always something to do', async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, { clock });
    const from = clock.now();
    await Promise.all(Array.from({ length: 50 }, () => limiter.take('write', 200)));
    expect(clock.now() - from).toBeCloseTo(10, 6);
  });

  test('counts reads and writes apart, and what takes turns does not wait twice', async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, { clock });
    const from = clock.now();
    for (let i = 0; i < 10; i++) {
      await limiter.take('read', 200);
      await limiter.take('write', 200);
    }
    expect(clock.now() - from).toBeLessThan(2.5);
  });

  test('lets pass in the order in which it was asked, also what is longer than its burst', async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(1000, { clock });
    const order: number[] = [];
    await Promise.all(
      [5000, 1, 900, 2].map((bytes) => limiter.take('read', bytes).then(() => order.push(bytes))),
    );
    expect(order).toEqual([5000, 1, 900, 2]);
  });

  test('does not wait on for those that shall hurry', async () => {
    const clock = new FakeClock();
    const limiter = new RateLimiter(10, { clock });
    let hurries = false;
    const from = clock.now();
    const waiting = limiter.take('read', 1_000_000, () => hurries);
    await clock.sleep(3);
    hurries = true;
    await waiting;
    expect(clock.now() - from).toBeLessThanOrEqual(4);
  });

  test('makes rounds of two seconds, of a part of its rate for each image, and of 1 MiB at least', () => {
    expect(new RateLimiter(50 << 20).roundBytes).toBe(100 << 20);
    expect(new RateLimiter(50 << 20, { sharedBy: 4 }).roundBytes).toBe(25 << 20);
    expect(new RateLimiter(1000).roundBytes).toBe(1 << 20);
  });

  test.each([0, -1, 1.5, NaN, Infinity])('of %d bytes a second is refused', (rate) => {
    expect(() => new RateLimiter(rate)).toThrow(QcowError);
  });
});

/** Notes when what passed. */
class WatchedDevice extends ForwardingDevice {
  readonly reads: Passed[] = [];
  readonly writes: Passed[] = [];

  constructor(
    inner: MemoryDevice,
    private readonly now: () => number,
  ) {
    super(inner);
  }

  override read(target: Uint8Array, offset: number): Promise<void> {
    this.reads.push({ at: this.now(), bytes: target.length });
    return super.read(target, offset);
  }

  override write(source: Uint8Array, offset: number): Promise<void> {
    this.writes.push({ at: this.now(), bytes: source.length });
    return super.write(source, offset);
  }
}

describe('two compactions under one limiter', () => {
  const initial = scatteredImage().build();

  test('stay below its rate together, walks included, and end as without it', async () => {
    const clock = new FakeClock();
    const rate = 2000;
    const limiter = new RateLimiter(rate, { clock });
    const memories = [new MemoryDevice(initial), new MemoryDevice(initial)];
    const watched = memories.map((memory) => new WatchedDevice(memory, clock.now));
    const from = clock.now();
    const results = await Promise.all(
      watched.map((device) =>
        compactDevice(new ThrottledDevice(device, limiter, () => false), { roundBytes: 4096 }),
      ),
    );
    const reads = watched.flatMap((device) => device.reads).sort((a, b) => a.at - b.at);
    const writes = watched.flatMap((device) => device.writes).sort((a, b) => a.at - b.at);
    expectWithin([{ at: from, bytes: 0 }, ...reads], rate);
    expectWithin([{ at: from, bytes: 0 }, ...writes], rate);
    const plain = new MemoryDevice(initial);
    await compactDevice(plain, { roundBytes: 4096 });
    for (const [i, memory] of memories.entries()) {
      expect(results[i]).toMatchObject({ outcome: 'compacted' });
      expect(Buffer.compare(memory.bytes(), plain.bytes())).toBe(0);
    }
  });

  test('stop within a second of the clock once the signal says so, at a barrier', async () => {
    const clock = new FakeClock();
    // So slow that it would take hours.
    const limiter = new RateLimiter(10, { clock });
    const controller = new AbortController();
    const { signal } = controller;
    const memory = new MemoryDevice(initial);
    const device = new ThrottledDevice(memory, limiter, () => signal.aborted);
    const run = compactDevice(device, { roundBytes: 4096, signal });
    await clock.sleep(100);
    controller.abort();
    const from = clock.now();
    expect(await run).toMatchObject({ outcome: 'interrupted' });
    expect(clock.now() - from).toBeLessThanOrEqual(1);
  });
});
