/**
 * Persistent bitmaps that QEMU made: after compacting, a backup program reads the same dirty blocks from each of
 * them, the guest sees the same disk, and QEMU goes on with them.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type CompactResult, compact } from '../../src/index.js';
import {
  digests,
  encryptedSource,
  expectMinimal,
  fileState,
  fixedHeader,
  guestIo,
  layoutOf,
} from '../e2e/images.js';
import { compareGuestView, guestView, minimalClusterCount } from '../support/oracle.js';
import { hasLongTables } from '../support/oracle-layout.js';
import { type Encryption, dirtyRanges, qemuImg } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { createEncrypted } from './encrypted-images.js';

const directory = temporaryDirectory();
const image = directory.path('image.qcow2');

function create(options: string, size: string): void {
  fs.rmSync(image, { force: true });
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, size);
}

function bitmap(name: string, ...how: string[]): void {
  qemuImg('bitmap', ...(how.length > 0 ? how : ['--add']), '-f', 'qcow2', image, name);
}

interface BitmapInfo {
  name: string;
  flags: string[];
  granularity: number;
}

function infoOf(source: readonly string[]): BitmapInfo[] {
  const info = JSON.parse(qemuImg('info', '--output=json', ...source)) as {
    'format-specific': { data: { bitmaps?: BitmapInfo[] } };
  };
  return info['format-specific'].data.bitmaps ?? [];
}

/** All that QEMU says of the bitmaps; of those that are usable also the dirty blocks. */
async function bitmapsOf(source: readonly string[]): Promise<unknown[]> {
  const all = infoOf(source);
  return Promise.all(
    all.map(async (info) =>
      info.flags.includes('in-use')
        ? info
        : { ...info, dirty: await dirtyRanges(image, info.name, { source }) },
    ),
  );
}

/** Compacts `image`, twice, and judges the result. */
async function compactAndJudge(encryption?: Encryption): Promise<CompactResult> {
  const source = encryption ? encryptedSource(image, encryption) : ['-f', 'qcow2', image];
  const seen = async () => ({
    bitmaps: await bitmapsOf(source),
    digests: digests(image, directory.path('scratch.raw'), source),
    header: fixedHeader(image),
  });
  const before = await seen();
  const bytes = fs.readFileSync(image);
  const view = guestView(bytes);
  const { length } = view.layout.bitmaps!.bitmaps;
  expect(before.bitmaps).toHaveLength(length);
  const result = await compact(image, { runtimeAsserts: true });
  expect(compareGuestView(view, fs.readFileSync(image))).toBeNull();
  expect(await seen()).toEqual(before);
  expectMinimal(image, 0, encryption);
  expect(Math.ceil(result.lengthAfter / result.clusterBytes)).toBe(minimalClusterCount(bytes));
  const state = fileState(image);
  expect(await compact(image)).toMatchObject({ outcome: 'clean', bytesWritten: 0 });
  expect(fileState(image)).toEqual(state);
  return result;
}

/** Of disks of this many clusters. */
const DISK = 24;

/** Bitmaps made, used, disabled and merged one after the other, with writes and discards between them. */
function use(cluster: number): void {
  const granularity = String(Math.min(cluster, 65536));
  const write = (pattern: number, first: number, count: number) =>
    `write -q -P ${pattern} ${first * cluster} ${count * cluster}`;
  guestIo(image, [write(1, 0, 6)]);
  bitmap('first', '--add', '-g', granularity);
  guestIo(image, [write(2, 3, 2), write(3, 12, 5)]);
  bitmap('second');
  guestIo(image, [write(4, 7, 4), `discard -q ${2 * cluster} ${4 * cluster}`]);
  bitmap('first', '--disable');
  bitmap('third', '--add', '-g', '1M');
  guestIo(image, [write(5, 18, 2), `discard -q ${12 * cluster} ${5 * cluster}`]);
  bitmap('fourth', '--add', '--disable', '-g', granularity);
  bitmap('fourth', '--merge', 'first');
}

describe.each([
  [512, 16],
  [4096, 1],
  [65536, 64],
  [2097152, 16],
])('clusters of %i bytes, refcounts of %i bits', (cluster, bits) => {
  test('bitmaps made, disabled, merged and removed', async () => {
    create(`cluster_size=${cluster},refcount_bits=${bits}`, String(DISK * cluster));
    use(cluster);
    bitmap('third', '--remove');
    const result = await compactAndJudge();
    expect(result.outcome).toBe('compacted');
    expect(result.lengthAfter).toBeLessThan(result.lengthBefore);
  });
});

test.each([4096, 65536])('QEMU goes on with them, clusters of %i bytes', async (cluster) => {
  create(`cluster_size=${cluster}`, String(DISK * cluster));
  use(cluster);
  await compactAndJudge();
  const covers = async (name: string) => {
    const at = 22 * cluster;
    return (await dirtyRanges(image, name)).some(({ start, end }) => start <= at && at < end);
  };
  expect([await covers('second'), await covers('fourth')]).toEqual([false, false]);
  guestIo(image, [`write -q -P 9 ${22 * cluster} ${cluster}`]);
  expect([await covers('second'), await covers('fourth')]).toEqual([true, false]);
  await compactAndJudge();
  for (const name of ['first', 'second', 'third', 'fourth']) bitmap(name, '--remove');
  expect(layoutOf(image).bitmaps).toBeNull();
  await compact(image);
  expectMinimal(image);
});

test('a directory and tables of several clusters', async () => {
  create('cluster_size=512', '140M');
  for (const letter of ['a', 'b', 'c']) bitmap(letter.repeat(600), '--add', '-g', '512');
  const writes = [...Array(20).keys()].map((at) => `write -q -P ${at + 1} ${at * 6}M 3k`);
  guestIo(image, [...writes, 'write -q -P 77 100M 200k', 'discard -q 100M 190k', 'discard -q 0 30M']);
  const { clusterSize, bitmaps } = layoutOf(image);
  expect(bitmaps!.directoryLength).toBeGreaterThan(3 * clusterSize);
  expect(bitmaps!.bitmaps[0]!.tableEntries * 8).toBeGreaterThan(clusterSize);
  expect(hasLongTables(layoutOf(image))).toBe(true);
  const result = await compactAndJudge();
  expect(result.lengthAfter).toBeLessThan(result.lengthBefore);
});

test('with snapshots, the middle one deleted, and compressed clusters', async () => {
  create('cluster_size=4k', '4M');
  bitmap('a');
  guestIo(image, ['write -q -P 1 0 200k', 'write -q -c -P 2 1M 400k']);
  qemuImg('snapshot', '-c', 'one', image);
  guestIo(image, ['write -q -P 3 100k 200k', 'write -q -c -P 4 2M 100k']);
  bitmap('b', '--add', '-g', '4k');
  qemuImg('snapshot', '-c', 'two', image);
  guestIo(image, ['write -q -P 5 64k 64k', 'discard -q 1M 200k']);
  qemuImg('snapshot', '-c', 'three', image);
  qemuImg('snapshot', '-d', 'two', image);
  const result = await compactAndJudge();
  expect(result.outcome).toBe('compacted');
});

test('the image among the fixtures', async () => {
  fs.copyFileSync('fixtures/bitmaps.qcow2', image);
  const result = await compactAndJudge();
  expect(result.outcome).toBe('compacted');
  expect(result.bytesMoved).toBeGreaterThan(0);
});

test('with extended L2 entries', async () => {
  create('cluster_size=16k,extended_l2=on', '16M');
  guestIo(image, ['write -q -P 1 0 1M']);
  bitmap('a', '--add', '-g', '512');
  guestIo(image, ['write -q -P 2 500k 512', 'write -q -P 3 5M 2k', 'discard -q 16k 700k']);
  expect((await compactAndJudge()).outcome).toBe('compacted');
});

test('with an external data file, beside which they are in the image', async () => {
  const data = directory.path('data.raw');
  create(`cluster_size=4k,data_file=${data}`, '64M');
  bitmap('a', '--add', '-g', '4k');
  bitmap('gone');
  guestIo(image, ['write -q -P 1 0 64k', 'write -q -P 2 30M 64k', 'write -q -P 3 60M 5k']);
  bitmap('b');
  guestIo(image, ['write -q -P 4 40M 64k']);
  bitmap('gone', '--remove');
  const result = await compactAndJudge();
  expect(result.lengthAfter).toBeLessThan(result.lengthBefore);
});

test('with LUKS, without its key: they are not encrypted, and move', async () => {
  const encryption: Encryption = { format: 'luks', secret: 'secret' };
  const source = () => encryptedSource(image, encryption);
  const add = (name: string) => {
    const options = source();
    qemuImg('bitmap', '--add', ...options.slice(0, -2), '--image-opts', options.at(-1)!, name);
  };
  fs.rmSync(image, { force: true });
  createEncrypted(image, 'cluster_size=4k', '4M', encryption);
  guestIo(image, ['write -q -P 1 0 200k'], encryption);
  add('a');
  add('b');
  // Written back behind the new data, so that the places before are free.
  guestIo(image, ['write -q -P 2 1M 200k'], encryption);
  const before = layoutOf(image).bitmaps!;
  const result = await compactAndJudge(encryption);
  expect(result.lengthAfter).toBeLessThan(result.lengthBefore);
  expect(layoutOf(image).bitmaps!.directoryOffset).not.toBe(before.directoryOffset);
});

describe('what a killed QEMU left in use', () => {
  /** QEMU marks what it keeps in memory as in use, and is killed before it writes it back. */
  function killQemu(): void {
    const commands = [
      '-c',
      'write -q -P 8 300k 64k',
      '-c',
      'discard -q 0 100k',
      '-c',
      'flush',
      '-c',
      'sigraise 9',
    ];
    expect(spawnSync('qemu-io', ['-f', 'qcow2', '-d', 'unmap', ...commands, image]).signal).toBe('SIGKILL');
  }

  test('stays in use, with its bits as they were', async () => {
    create('cluster_size=4k', '4M');
    guestIo(image, ['write -q -P 1 0 400k']);
    bitmap('a', '--add', '-g', '4k');
    guestIo(image, ['write -q -P 2 100k 30k']);
    bitmap('b', '--add', '--disable');
    killQemu();
    const source = ['-f', 'qcow2', image];
    expect(infoOf(source).map(({ flags }) => flags.includes('in-use'))).toEqual([true, true]);
    const result = await compactAndJudge();
    expect(result.outcome).toBe('compacted');
    expect(infoOf(source).map(({ flags }) => flags.includes('in-use'))).toEqual([true, true]);
    bitmap('a', '--remove');
    await compactAndJudge();
  });

  test('is of another size than the disk has now', async () => {
    create('cluster_size=512', '64M');
    bitmap('a', '--add', '-g', '512');
    guestIo(image, ['write -q -P 1 1M 100k']);
    killQemu();
    // As a resize leaves it that knows no bitmaps.
    const bytes = fs.readFileSync(image);
    bytes.writeBigUInt64BE(8n << 20n, 24);
    fs.writeFileSync(image, bytes);
    expect((await compactAndJudge()).outcome).toBe('compacted');
  });
});
