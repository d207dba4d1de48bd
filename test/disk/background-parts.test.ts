/** The parts of the work in the background that decide and wait, each alone (recycler contract C52 to C56). */
import { describe, expect, test } from 'vitest';
import { DelayedFlusher } from '../../src/disk/background/delayed-flusher.js';
import { type Look, decide } from '../../src/disk/background/decision.js';
import { JunkWatch, MOST_POLLS } from '../../src/disk/background/junk-watch.js';
import { backgroundPlan } from '../../src/disk/background/options.js';
import { Throttle } from '../../src/disk/background/throttle.js';
import { FakeClock } from '../device/fake-clock.js';

const RESTING: Look = {
  keepErased: 8,
  pool: 8,
  junk: 0,
  reclaimable: 0,
  compactAfter: 10,
  isCompacting: false,
  hasJustErased: false,
  isStable: true,
  hasFlushedMoves: false,
  hasUnfinishedMoves: false,
  last: 100,
  lastBefore: 100,
};
const POOR = { pool: 7, junk: 20, reclaimable: 20 };
const MOVING = { hasFlushedMoves: true, hasUnfinishedMoves: true };

describe('C52', () => {
  test('bytes are rounded down to clusters, and 0 is the same as nothing', () => {
    const after = (compactAfterBytes?: number) =>
      backgroundPlan(compactAfterBytes === undefined ? {} : { compactAfterBytes }, 4096).compactAfter;
    expect([after(), after(0), after(1), after(4095), after(8192), after(12287)]).toEqual([
      null,
      null,
      0,
      0,
      2,
      2,
    ]);
    expect(backgroundPlan({}, 4096).keepErased).toBe(0);
  });

  test.each([
    { keepErased: -1 },
    { keepErased: 1.5 },
    { compactAfterBytes: Number.NaN },
    { backgroundBytesPerSecond: 0 },
  ])('%j is refused by name', (settings) => {
    const name = Object.keys(settings)[0]!;
    expect(() => backgroundPlan(settings, 512)).toThrow(new RegExp(`^${name} must be a whole number`));
  });
});

test.each<[string, Partial<Look>]>([
  ['erase', { ...POOR, ...MOVING, last: 90 }],
  ['update references', { ...POOR, ...MOVING, hasJustErased: true }],
  ['compact', { ...POOR, hasJustErased: true }],
  ['compact', { ...POOR, compactAfter: null, isCompacting: true, hasJustErased: true }],
  ['erase', { ...POOR, compactAfter: null, hasJustErased: true }],
  ['erase', { ...POOR, hasUnfinishedMoves: true, hasJustErased: true }],
  ['update references', { ...MOVING, junk: 20, reclaimable: 20, last: 90 }],
  ['compact', { junk: 11, reclaimable: 11, last: 90 }],
  ['compact', { keepErased: 0, reclaimable: 11 }],
  // Strictly more.
  ['wait', { junk: 10, reclaimable: 10 }],
  ['wait', { junk: 11, reclaimable: 11, hasUnfinishedMoves: true }],
  ['wait', { junk: 11, reclaimable: 11, compactAfter: null }],
  ['poll', { junk: 11, reclaimable: 11, isStable: false }],
  ['truncate', { junk: 11, reclaimable: 11, isStable: false, last: 90 }],
  ['truncate', { last: 90 }],
  ['wait', { pool: 7 }],
  ['wait', { last: 110 }],
])('C53: %s for %j', (decision, look) => {
  expect(decide({ ...RESTING, ...look })).toBe(decision);
});

describe('C54', () => {
  test('two polls that agree, 5 s apart, say that the junk is stable', () => {
    const watch = new JunkWatch();
    expect(watch.isStable(0, 7)).toBe(false);
    expect(watch.isStable(4.9, 7)).toBe(false);
    expect(watch.left(4)).toBe(1);
    expect(watch.isStable(5, 8)).toBe(false);
    expect(watch.isStable(10, 8)).toBe(true);
  });

  test('however it changes, the wait comes to an end', () => {
    const watch = new JunkWatch();
    let polls = 1;
    while (!watch.isStable(polls * 5, polls)) polls++;
    expect(polls).toBe(MOST_POLLS + 1);
  });
});

describe('C56', () => {
  function flusher() {
    const clock = new FakeClock();
    const start = clock.now();
    const at: number[] = [];
    let onFlush: () => Promise<void> = () => Promise.resolve();
    const delayed = new DelayedFlusher(clock, async () => {
      at.push(clock.now() - start);
      await onFlush();
    });
    return { clock, at, delayed, during: (work: () => Promise<void>) => (onFlush = work) };
  }

  test('requests at 0, 3 and 4.9 s cause one barrier at 5 s', async () => {
    const { clock, at, delayed } = flusher();
    delayed.request();
    await clock.sleep(3);
    delayed.request();
    await clock.sleep(1.9);
    delayed.request();
    await clock.sleep(30);
    expect(at).toEqual([5]);
  });

  test('requests during the barrier cause one more', async () => {
    const { clock, at, delayed, during } = flusher();
    during(async () => {
      if (at.length > 1) return;
      delayed.request();
      await clock.sleep(1);
      delayed.request();
    });
    delayed.request();
    await clock.sleep(60);
    expect(at).toEqual([5, 11]);
  });

  test('none comes after it is stopped, and one under way is waited for', async () => {
    const { clock, at, delayed, during } = flusher();
    let isDone = false;
    during(async () => {
      await clock.sleep(2);
      isDone = true;
    });
    delayed.request();
    await clock.sleep(6);
    delayed.request();
    await delayed.stop();
    expect(isDone).toBe(true);
    delayed.request();
    await clock.sleep(60);
    expect(at).toEqual([5]);
  });
});

describe('the throttle', () => {
  test('holds copies back while a client is at work, and not at rest', async () => {
    const clock = new FakeClock();
    let requests = 1;
    const throttle = new Throttle(1000, clock, () => requests);
    const secondsFor = async (bytes: number) => {
      const start = clock.now();
      await throttle.pass(bytes, () => false);
      return clock.now() - start;
    };
    await secondsFor(1000);
    expect(await secondsFor(2000)).toBeCloseTo(2);
    requests = 0;
    expect(await secondsFor(1e9)).toBe(0);
    throttle.note();
    expect(await secondsFor(1e9)).toBeCloseTo(0.25);
  });

  test('lets go at once of who is told to stop', async () => {
    const clock = new FakeClock();
    const throttle = new Throttle(1, clock, () => 1);
    const start = clock.now();
    await throttle.pass(1000, () => clock.now() > start + 1);
    expect(clock.now() - start).toBeLessThan(2);
  });
});
