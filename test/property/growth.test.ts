/** While it works, and wherever it stops, the file is longer than it was by one round at most (I10). */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { extentSectors, inspect } from '../support/oracle.js';
import { randomImage } from '../support/random-image.js';
import { Random } from '../support/random.js';
import { longestTable } from './longest-table.js';

const SEED = Number(process.env.SEED ?? 1);
const COUNT = Number(process.env.COUNT ?? 300);

class PeakDevice extends MemoryDevice {
  peakBytes = 0;

  override async write(source: Uint8Array, offset: number): Promise<void> {
    await super.write(source, offset);
    this.peakBytes = Math.max(this.peakBytes, this.lengthBytes);
  }

  override async truncate(lengthBytes: number): Promise<void> {
    await super.truncate(lengthBytes);
    this.peakBytes = Math.max(this.peakBytes, this.lengthBytes);
  }
}

/** By how many clusters too many the random image grows, in words, or null. */
async function flawOf(seed: number): Promise<string | null> {
  const { bytes, description } = randomImage(seed, { clusterBits: 9, maxClusters: 150 });
  const { clusterCount, clusterSize } = inspect(bytes);
  const perRound = new Random(seed).pick([1, 4, 16]);
  const device = new PeakDevice(bytes);
  await compactDevice(device, { roundBytes: perRound * clusterSize });
  const grown = Math.ceil(device.peakBytes / clusterSize) - clusterCount;
  // A table that must stay in one piece goes in one round, however long it is.
  // Of compressed extents at least one moves, with all that is in its way.
  const allowed = Math.max(perRound, longestTable(bytes), extentSectors(bytes) > 0 ? 8 : 0);
  return grown > allowed ? `${grown} clusters longer, not ${allowed} at most: ${description}` : null;
}

test(`random images grow by a round at most, seeds from ${SEED}, ${COUNT} of them`, async () => {
  const failures: string[] = [];
  for (let seed = SEED; seed < SEED + COUNT; seed++) {
    const flaw = await flawOf(seed);
    if (flaw !== null) failures.push(flaw);
  }
  if (failures.length > 0) expect.fail(`${failures.length} of ${COUNT}:\n${failures.slice(0, 5).join('\n')}`);
});

test.each([5625, 5861])('what steps aside and what comes share one round, seed %i', async (seed) => {
  expect(await flawOf(seed)).toBeNull();
});
