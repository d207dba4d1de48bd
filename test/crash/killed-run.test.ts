/**
 * A run that is killed leaves in the host's cache what no barrier has made durable. The next run begins on that, and
 * the power failure that strikes then may lose writes of both (I2).
 */
import { expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import type { Operation } from '../../src/device/recording-device.js';
import { crashStates } from '../support/crash-simulator.js';
import { randomImage } from '../support/random-image.js';
import { Judge, recordCompaction, recordErasing } from './recorded-run.js';

const SEED = Number(process.env.SEED ?? 1);
const IMAGES = 30;
/** Of each run so many moments to kill it. */
const KILLS = 8;
const OPTIONS = { roundBytes: 8 * 512 };

async function replayed(initial: Uint8Array, log: readonly Operation[]): Promise<Uint8Array> {
  const device = new MemoryDevice(initial);
  for (const operation of log) {
    if (operation.kind === 'write') await device.write(operation.bytes, operation.offset);
    else if (operation.kind === 'truncate') await device.truncate(operation.length);
    else if (operation.kind === 'punch') await device.punch(operation.offset, operation.length);
  }
  return device.bytes();
}

test.each([
  ['a compaction', async (left: Uint8Array) => (await recordCompaction(left, OPTIONS)).log],
  ['an erasing run', async (left: Uint8Array) => (await recordErasing(left)).log],
] as const)(`%s that follows a killed one, seeds from ${SEED}`, async (_, nextRun) => {
  let states = 0;
  for (let seed = SEED; seed < SEED + IMAGES; seed++) {
    const { bytes, description } = randomImage(seed, {
      clusterBits: 9,
      maxClusters: 60,
      layout: { junk: 20, shuffle: true },
    });
    const judge = new Judge(bytes);
    const { log } = await recordCompaction(bytes, OPTIONS);
    for (let killed = 1; killed < log.length; killed += Math.max(1, Math.floor(log.length / KILLS))) {
      const done = log.slice(0, killed);
      const durable = done.findLastIndex(({ kind }) => kind === 'flush') + 1;
      const next = await nextRun(await replayed(bytes, done));
      // One window: what the first run wrote after its last barrier, and what the second one wrote before its first.
      const barrier = next.findIndex(({ kind }) => kind === 'flush');
      const window = [...done.slice(durable), ...next.slice(0, barrier < 0 ? next.length : barrier)];
      const start = await replayed(bytes, done.slice(0, durable));
      for (const { label, bytes: state } of crashStates(start, window, { seed, subsetsPerWindow: 40 })) {
        states++;
        expect(judge.flawOf(state), `killed at ${killed}, ${label}: ${description}`).toBeNull();
      }
    }
  }
  console.log(`${states} crash states`);
  expect(states).toBeGreaterThan(1000);
});
