/** What needs nothing of the host leaves it turns of the event loop all the same. */
import { expect, test } from 'vitest';
import { CMD, FLAG } from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { connectTo } from './served.js';
import { countTurns } from '../support/turns.js';

/** Keeps the processor busy. */
function burn(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end;);
}

test.each([
  ['BLOCK_STATUS', CMD.BLOCK_STATUS, FLAG.REQ_ONE],
  ['CACHE', CMD.CACHE, 0],
  ['READ', CMD.READ, 0],
])('%s of many requests', async (_, command, flags) => {
  const disk = new MemoryDisk(4096);
  disk.before = () => burn(2);
  const { client } = connectTo(disk);
  await client.begin();
  let least = Infinity;
  const turns = countTurns();
  disk.before = () => {
    least = Math.min(least, turns());
    burn(2);
  };
  const requests = Array.from({ length: 60 }, () => client.request(command, { length: 4096, flags }));
  for (const cookie of requests) expect((await client.answer()).cookie).toBe(cookie);
  // 120 ms and more, by a few at a time.
  expect(turns() - least).toBeGreaterThan(8);
});
