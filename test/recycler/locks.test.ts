import { describe, expect, test } from 'vitest';
import { Access, Mutex, RangeLocks } from '../../src/recycler/locks.js';
import { isPending } from './harness.js';

describe('range locks', () => {
  test('readers share, a writer is alone', async () => {
    const locks = new RangeLocks();
    const readers = await Promise.all([locks.shared(5, 3), locks.shared(7, 3)]);
    expect(locks.heldCount).toBe(2);
    const writer = locks.exclusive(7, 1);
    expect(await isPending(writer)).toBe(true);
    readers[0]();
    expect(await isPending(writer)).toBe(true);
    readers[1]();
    (await writer)();
    expect(locks.heldCount).toBe(0);
  });

  test('ranges touch where they overlap, and nowhere else', async () => {
    const locks = new RangeLocks();
    const release = await locks.exclusive(10, 5);
    for (const [first, count, free] of [
      [9, 1, true],
      [15, 1, true],
      [9, 2, false],
      [14, 1, false],
      [12, 1, false],
      [0, 100, false],
      [15, 0, true],
    ] as const) {
      const taken = locks.tryExclusive(first, count);
      expect(taken !== null, `${first}+${count}`).toBe(free);
      taken?.();
    }
    release();
    expect(locks.heldCount).toBe(0);
  });

  test('C66: a waiting writer is not overtaken by readers that come later', async () => {
    const locks = new RangeLocks();
    const first = await locks.shared(1, 1);
    const order: string[] = [];
    const writer = locks.exclusive(1, 1).then((release) => {
      order.push('writer');
      release();
    });
    const reader = locks.shared(1, 1).then((release) => {
      order.push('reader');
      release();
    });
    const elsewhere = await locks.shared(2, 1);
    elsewhere();
    expect(await isPending(reader)).toBe(true);
    first();
    await Promise.all([writer, reader]);
    expect(order).toEqual(['writer', 'reader']);
  });

  test('who reads or writes in place goes along with others of the kind, and a copy with none that changes', () => {
    const together: Record<keyof typeof Access, (keyof typeof Access)[]> = {
      passing: ['passing', 'changing', 'shared'],
      changing: ['passing', 'changing'],
      shared: ['passing', 'shared'],
      exclusive: [],
    };
    const names = Object.keys(Access) as (keyof typeof Access)[];
    for (const one of names) {
      for (const other of names) {
        const locks = new RangeLocks();
        expect(locks.tryLock(3, 2, Access[one])).not.toBeNull();
        const goesAlong = locks.tryLock(4, 1, Access[other]) !== null;
        expect({ one, other, goesAlong }).toEqual({ one, other, goesAlong: together[one].includes(other) });
        expect(locks.tryLock(5, 1, Access[other])).not.toBeNull();
      }
    }
  });

  test('trying does not overtake who waits either', async () => {
    const locks = new RangeLocks();
    const holder = await locks.exclusive(1, 2);
    const waiting = locks.exclusive(2, 3);
    // Cluster 4 is free, but the waiting writer wants it.
    expect(locks.tryExclusive(4, 1)).toBeNull();
    expect(locks.tryExclusive(5, 1)).not.toBeNull();
    holder();
    (await waiting)();
    expect(locks.tryExclusive(4, 1)).not.toBeNull();
  });

  test('a lock released twice is released once', async () => {
    const locks = new RangeLocks();
    const release = await locks.exclusive(1, 1);
    release();
    const other = await locks.exclusive(1, 1);
    release();
    expect(locks.tryExclusive(1, 1)).toBeNull();
    other();
  });
});

describe('the mutex', () => {
  test('lets one in at a time, in order of arrival, failures included', async () => {
    const mutex = new Mutex();
    const order: number[] = [];
    let inside = 0;
    const work = (id: number) =>
      mutex.run(async () => {
        expect(++inside).toBe(1);
        await new Promise((resolve) => setImmediate(resolve));
        order.push(id);
        inside--;
        if (id === 2) throw new Error('the second one fails');
        return id;
      });
    expect(mutex.busy).toBe(false);
    const all = Promise.allSettled([1, 2, 3, 4].map(work));
    expect(mutex.busy).toBe(true);
    expect((await all).map(({ status }) => status)).toEqual([
      'fulfilled',
      'rejected',
      'fulfilled',
      'fulfilled',
    ]);
    expect(order).toEqual([1, 2, 3, 4]);
    expect(mutex.busy).toBe(false);
  });
});

test('who waits until a certain time is in line until then, and holds up nobody afterwards', async () => {
  const locks = new RangeLocks();
  const release = await locks.shared(5, 1);
  let settle: () => void = () => undefined;
  const tooLate = new Promise<void>((resolve) => (settle = resolve));
  const patient = locks.lockUntil(5, 1, Access.exclusive, tooLate);
  expect(locks.tryLock(5, 1, Access.shared)).toBeNull();
  const behind = locks.shared(5, 1);
  settle();
  expect(await patient).toBeNull();
  (await behind)();
  release();
  const free = await locks.lockUntil(5, 1, Access.exclusive, tooLate);
  free!();
  const held = await locks.shared(5, 1);
  const inTime = locks.lockUntil(5, 1, Access.exclusive, new Promise(() => undefined));
  held();
  (await inTime)!();
  expect(locks.heldCount).toBe(0);
});
