/** Whenever a live disk is cut off, its image is valid, what was flushed is there, and each sector is old or new. */
import { expect, test } from 'vitest';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { image } from '../support/image-builder.js';
import { layoutOf } from '../crash/kinds.js';
import { DiskTally, recordDisk } from './crash-run.js';
import { contentOf } from './model-run.js';

const SEED = Number(process.env.SEED ?? 1);
const STATES = Number(process.env.STATES ?? 6_000);

const directory = temporaryDirectory();

test(`crashes of live disks on random images, seeds from ${SEED}`, { timeout: 240_000 }, async () => {
  const tally = new DiskTally(directory.path('crashed.qcow2'));
  for (let seed = SEED; tally.states < STATES; seed++) {
    const run = await recordDisk(seed);
    await tally.judge(run, seed, 12);
  }
  console.log(tally.report());
  expect(tally.qemuChecks).toBeGreaterThanOrEqual(6);
});

test(`crashes while clusters move beside clients, seeds from ${SEED}`, { timeout: 240_000 }, async () => {
  const tally = new DiskTally(directory.path('moving.qcow2'));
  for (let seed = SEED; tally.states < STATES; seed++) {
    const run = await recordDisk(seed, undefined, { isHot: true });
    await tally.judge(run, seed, 8);
  }
  console.log(tally.report());
  expect(tally.moved).toBeGreaterThan(tally.runs);
});

test('crashes where the file ends within a sector of data', async () => {
  const bytes = image({ clusterBits: 10, virtualSize: 20 * 1024, seed: SEED })
    .writeRange(0, 6)
    .layout({ partialTail: true, junkAtEnd: 1 })
    .build();
  const built = {
    bytes: bytes.subarray(0, bytes.length - (bytes.length % 512) - 301),
    base: null,
    description: 'a tail',
  };
  const tally = new DiskTally(directory.path('tail.qcow2'));
  for (let seed = SEED; seed < SEED + 12; seed++) {
    const run = await recordDisk(seed, built, { operations: 12, mix: { isAligned: true } });
    await tally.judge(run, seed, 30);
  }
  console.log(tally.report());
});

test('crashes while the refcount table grows', { timeout: 120_000 }, async () => {
  // Counts of 64 bits in clusters of 512 bytes: one cluster of the table describes 4096 clusters, nearly all in use.
  const described = 64 * 64;
  let bytes: Uint8Array = new Uint8Array(0);
  for (let again = 2000; again === 2000 || bytes.length > (described - 6) * 512; again -= 4) {
    bytes = image({ seed: SEED, refcountOrder: 6, virtualSize: 2300 * 512 })
      .writeRange(0, 2000)
      .snapshot('a')
      .writeRange(0, again)
      .build();
  }
  const { refcountTableClusters } = layoutOf(bytes);
  const built = { bytes, base: null, description: 'a refcount table that is nearly full' };
  expect(refcountTableClusters).toBe(1);
  const tally = new DiskTally(directory.path('grown.qcow2'));
  const run = await recordDisk(SEED, built, {
    operations: 10,
    fillBytes: 64 * 512,
    mix: { clients: 2, mostBytes: 20_000, flushes: 15 },
  });
  expect(layoutOf(run.final).refcountTableClusters).toBeGreaterThan(refcountTableClusters);
  expect((await contentOf(run.final, null)).length).toBe(2300 * 512);
  await tally.judge(run, SEED, 16);
  console.log(tally.report());
});
