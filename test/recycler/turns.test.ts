import { expect, test } from 'vitest';
import { Turns } from '../../src/recycler/turns.js';
import { isPending } from './harness.js';

/** Work that lasts until `end` is called. */
function lasting() {
  let end: () => void = () => undefined;
  let begun = false;
  const ended = new Promise<void>((resolve) => (end = resolve));
  const work = () => {
    begun = true;
    return ended;
  };
  return { work, end: () => end(), hasBegun: () => begun };
}

test('reads go together, writes wait for all of them, and reads for all writes', async () => {
  const turns = new Turns();
  const [r1, r2, w1, w2, r3] = [lasting(), lasting(), lasting(), lasting(), lasting()];
  const all = [turns.read(r1.work), turns.read(r2.work), turns.write(w1.work), turns.write(w2.work)];
  expect([r1, r2, w1, w2].map((each) => each.hasBegun())).toEqual([true, true, false, false]);
  r1.end();
  expect(await isPending(all[2]!)).toBe(true);
  expect(w1.hasBegun()).toBe(false);
  r2.end();
  await all[1];
  await Promise.resolve();
  expect([w1.hasBegun(), w2.hasBegun()]).toEqual([true, true]);
  all.push(turns.read(r3.work));
  w1.end();
  await all[2];
  expect(r3.hasBegun()).toBe(false);
  w2.end();
  r3.end();
  await Promise.all(all);
  expect(r3.hasBegun()).toBe(true);
});

test('work that fails ends its turn too', async () => {
  const turns = new Turns();
  const failing = turns.read(() => Promise.reject(new Error('EIO')));
  const writing = turns.write(() => Promise.resolve());
  await expect(failing).rejects.toThrow('EIO');
  await writing;
});

test('workers that read and write by turns all come to an end, and never both at once', async () => {
  const turns = new Turns();
  let reading = 0;
  let writing = 0;
  const worker = async (index: number) => {
    for (let i = 0; i < 20; i++) {
      const pause = () => new Promise((resolve) => setTimeout(resolve, (index + i) % 3));
      await turns.read(async () => {
        reading++;
        await pause();
        expect(writing).toBe(0);
        reading--;
      });
      await turns.write(async () => {
        writing++;
        await pause();
        expect(reading).toBe(0);
        writing--;
      });
    }
  };
  await Promise.all(Array.from({ length: 7 }, (_, index) => worker(index)));
});
