/**
 * Images that QEMU left dirty, corrupt or leaking: repaired here they show the guest what QEMU shows of them and what
 * its own repair makes of them, its check finds them clean, and they compact to the least file.
 */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { QcowError, compact, repair } from '../../src/index.js';
import {
  digests,
  expectMinimal,
  fileState,
  junkClusters,
  layoutOf,
  makeHoley,
  patch,
} from '../e2e/images.js';
import { checkImage, qemuIo, repairByQemu } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { abortedQemu, killedQemu } from './crashed-qemu.js';

const SEED = Number(process.env.SEED ?? 1);
/** No two runs are alike: when QEMU dies depends on the machine. */
const KILLS = Number(process.env.KILLS ?? 5);
const CLEAN = { corruptions: 0, leaks: 0, errors: 0 };
const directory = temporaryDirectory();
const image = directory.path('image.qcow2');
const copy = directory.path('copy.qcow2');
const byQemu = directory.path('by-qemu.qcow2');

function isDirty(target: string): boolean {
  return (layoutOf(target).view.getUint32(76) & 1) !== 0;
}

/** Repairs and compacts `image` and copies of it in every way, and judges the results. */
async function repairAndJudge(): Promise<void> {
  const content = digests(image);
  fs.copyFileSync(image, byQemu);
  repairByQemu(byQemu);
  expect(digests(byQemu)).toEqual(content);

  fs.copyFileSync(image, copy);
  const { corruptions, leaks } = await repair(copy);
  expect({ corruptions, leaks }).toEqual({ corruptions: 0, leaks: 0 });
  expect(checkImage(copy)).toEqual(CLEAN);
  expect(digests(copy)).toEqual(content);
  // QEMU writes to it as to any other.
  qemuIo(copy, ['write -q -P 77 1M 3M', 'read -q -P 77 1M 3M']);
  expect(checkImage(copy)).toEqual(CLEAN);

  await compact(image, { repair: 'all' });
  expectMinimal(image);
  expect(digests(image)).toEqual(content);
  await compact(byQemu);
  expect(fs.statSync(image).size).toBeLessThanOrEqual(fs.statSync(byQemu).size);
}

describe(`QEMU aborted, lazy refcounts (SEED=${SEED})`, () => {
  test.each([
    { options: 'cluster_size=64k', snapshot: false },
    { options: 'cluster_size=4k', snapshot: true },
    { options: 'cluster_size=512,refcount_bits=64', snapshot: false },
    { options: 'cluster_size=1k,refcount_bits=1', snapshot: false },
    { options: 'cluster_size=2M', snapshot: true },
    { options: 'cluster_size=16k,extended_l2=on', snapshot: true },
  ])('$options, snapshot: $snapshot', async ({ options, snapshot }) => {
    const random = new Random(SEED);
    fs.rmSync(image, { force: true });
    abortedQemu(image, random, { options: `${options},lazy_refcounts=on`, snapshot }, 30);
    expect(isDirty(image)).toBe(true);
    // With small clusters QEMU's caches are so small that most counts may have been written.
    if (!/=(512|1k)/.test(options)) expect(checkImage(image).corruptions).toBeGreaterThan(0);
    await repairAndJudge();
  });
});

test(`QEMU killed ${KILLS} times at random (SEED=${SEED})`, { timeout: 60_000 + 5000 * KILLS }, async () => {
  const random = new Random(SEED);
  let dirty = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const options = random.pick(['cluster_size=4k', 'cluster_size=64k', 'cluster_size=1k,refcount_bits=8']);
    const lazy = random.chance(0.8) ? ',lazy_refcounts=on' : '';
    fs.rmSync(image, { force: true });
    await killedQemu(
      image,
      random,
      { options: options + lazy, snapshot: random.chance(0.5) },
      random.int(200),
    );
    if (isDirty(image)) dirty++;
    await repairAndJudge();
  }
  expect(dirty).toBeGreaterThan(0);
});

test('QEMU found the image corrupt and marked it', async () => {
  makeHoley(image);
  const { view, l1Offset, refcountTableOffset } = layoutOf(image);
  const l2 = Number(view.getBigUint64(l1Offset) & 0xfffffffffffe00n);
  // Its allocator takes the first cluster without a count, and sees then that it is the L2 table.
  const block = Number(view.getBigUint64(refcountTableOffset));
  const unused = junkClusters(image);
  expect(unused.every((cluster) => cluster > l2 / 4096)).toBe(true);
  patch(image, block + 2 * (l2 / 4096), [0, 0]);
  const content = digests(image);
  expect(() => qemuIo(image, ['write -P 9 0 4k'])).toThrow(/Preventing invalid/);
  expect(layoutOf(image).view.getUint32(76) & 2).toBe(2);
  await expect(compact(image)).rejects.toThrow(/marked corrupt.*--repair/);
  expect((await repair(image)).marksCleared).toEqual(['corrupt']);
  expect(checkImage(image)).toEqual(CLEAN);
  expect(digests(image)).toEqual(content);
  await compact(image);
  expectMinimal(image);
});

test('the image in fixtures/', async () => {
  fs.copyFileSync(path.resolve('fixtures/dirty.qcow2'), image);
  expect(isDirty(image)).toBe(true);
  await repairAndJudge();
});

test('an external data file and lazy refcounts', async () => {
  const dataFile = directory.path('data.raw');
  fs.rmSync(image, { force: true });
  fs.rmSync(dataFile, { force: true });
  const options = `cluster_size=4k,lazy_refcounts=on,data_file=${dataFile}`;
  abortedQemu(image, new Random(SEED), { options, snapshot: false }, 30);
  expect(isDirty(image)).toBe(true);
  const content = digests(image);
  await compact(image, { repair: 'all' });
  expectMinimal(image);
  expect(digests(image)).toEqual(content);
});

test('what only loses data as QEMU repairs it is refused', async () => {
  makeHoley(image);
  const { view, l1Offset, clusterSize } = layoutOf(image);
  const l2 = Number(view.getBigUint64(l1Offset) & 0xfffffffffffe00n);
  const slot =
    [...Array(clusterSize / 8).keys()].find((at) => view.getBigUint64(l2 + at * 8) !== 0n)! * 8 + l2;
  patch(image, slot, [0x80, 0, 0, 0x40, 0, 0, 0, 0]);
  patch(image, 79, [1]);
  const state = fileState(image);
  for (const attempt of [() => repair(image), () => compact(image, { repair: 'all' })]) {
    const error = await attempt().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(QcowError);
    expect((error as QcowError).message).toContain(`0x${slot.toString(16)}`);
  }
  expect(fileState(image)).toEqual(state);
});
