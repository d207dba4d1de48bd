/**
 * The main promise for images with features of their own: given an image that QEMU made, compacting it leaves a
 * valid image with no leak, no excess cluster and the same content in every layer; a second run changes nothing.
 */
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type CompactResult, compact, eraseJunk, plan } from '../../src/index.js';
import {
  digests,
  encryptedSource,
  expectMinimal,
  fileState,
  fixedHeader,
  guestIo,
  layoutOf,
} from '../e2e/images.js';
import { minimalClusterCount } from '../support/oracle.js';
import { type Encryption, checkImage, qemuImg } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { createEncrypted, useEncrypted } from './encrypted-images.js';

const directory = temporaryDirectory();
const image = directory.path('image.qcow2');

function create(options: string, size: string, encryption?: Encryption): void {
  fs.rmSync(image, { force: true });
  if (encryption === undefined) qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, size);
  else createEncrypted(image, options, size, encryption);
}

/** Compacts `image` twice and judges it; `away`: a file that nobody may need for that. */
async function compactAndJudge({
  away,
  encryption,
  source,
}: { away?: string; encryption?: Encryption; source?: readonly string[] } = {}): Promise<CompactResult> {
  const scratch = directory.path('scratch.raw');
  const seen = () => ({ digests: digests(image, scratch, source), header: fixedHeader(image) });
  const before = seen();
  const minimal = minimalClusterCount(fs.readFileSync(image)) * layoutOf(image).clusterSize;
  if (away !== undefined) fs.renameSync(away, `${away}.away`);
  const result = await compact(image, { runtimeAsserts: true });
  const state = fileState(image);
  const second = await compact(image);
  if (away !== undefined) fs.renameSync(`${away}.away`, away);
  expect({ ...second, state: fileState(image) }).toMatchObject({
    outcome: 'clean',
    bytesWritten: 0,
    barriers: 0,
    state,
  });
  expect(Math.ceil(result.lengthAfter / result.clusterBytes) * result.clusterBytes).toBe(minimal);
  expectMinimal(image, 0, encryption);
  expect(seen()).toEqual(before);
  return result;
}

describe('extended L2 entries', () => {
  describe.each([14, 16, 21])('clusters of 2^%i bytes', (clusterBits) => {
    const cluster = 2 ** clusterBits;
    const piece = cluster / 32;
    const options = `extended_l2=on,cluster_size=${cluster}`;

    /** One write to each subcluster that the pattern names, in many clusters. */
    function fill(first: number, count: number, pattern: number): void {
      const commands: string[] = [];
      for (let at = first; at < first + count; at++) {
        for (const sub of [at % 32, (at * 7 + 3) % 32, 31]) {
          commands.push(`write -q -P ${(pattern + at) % 250} ${at * cluster + sub * piece} ${piece}`);
        }
        commands.push(`write -q -z ${at * cluster + ((at * 5 + 1) % 32) * piece} ${piece}`);
      }
      guestIo(image, commands);
    }

    test('written, zeroed and discarded in part', async () => {
      create(options, String(60 * cluster));
      fill(0, 24, 1);
      guestIo(image, [
        `discard -q ${2 * cluster} ${9 * cluster}`,
        `write -q -z -u ${15 * cluster} ${cluster}`,
      ]);
      const result = await compactAndJudge();
      expect(result.outcome).toBe('compacted');
      expect(result.bytesMoved).toBeGreaterThan(0);
    });

    test('snapshots, the middle one deleted, over a backing file', async () => {
      const backing = directory.path('backing.raw');
      fs.writeFileSync(backing, Buffer.alloc(40 * cluster, 'backing'));
      create(`${options},backing_file=${backing},backing_fmt=raw`, String(40 * cluster));
      fill(0, 14, 1);
      qemuImg('snapshot', '-c', 'a', image);
      fill(5, 12, 50);
      qemuImg('snapshot', '-c', 'b', image);
      fill(9, 6, 90);
      qemuImg('snapshot', '-d', 'b', image);
      const result = await compactAndJudge();
      expect(result.outcome).toBe('compacted');
    });

    test('preallocated', async () => {
      create(`${options},preallocation=metadata`, String(30 * cluster));
      fill(3, 4, 7);
      guestIo(image, [`discard -q ${8 * cluster} ${12 * cluster}`]);
      await compactAndJudge();
    });
  });
});

describe('an external data file', () => {
  const data = directory.path('data.raw');

  /** Tables at the end of the file that name data, and tables before them that nothing needs any more. */
  function fill(cluster: number, tables: number): void {
    const perTable = (cluster * cluster) / 8;
    const writes = [...Array(tables).keys()].map(
      (at) => `write -q -P ${at + 1} ${at * perTable} ${3 * cluster}`,
    );
    guestIo(image, [...writes, `write -q -z ${perTable + cluster} ${cluster}`, `discard -q 0 ${cluster}`]);
  }

  describe.each([
    [512, 12],
    [4096, 12],
    [65536, 2],
  ])('clusters of %i bytes', (cluster, tables) => {
    const size = (tables * cluster * cluster) / 8;

    test.each([
      ['as QEMU lays it out', 'off'],
      ['raw', 'on'],
    ])('%s', async (_, raw) => {
      fs.rmSync(data, { force: true });
      create(`cluster_size=${cluster},data_file=${data},data_file_raw=${raw}`, String(size));
      fill(cluster, tables);
      spoil(cluster);
      const state = fileState(data);
      const result = await compactAndJudge({ away: data });
      expect(result.outcome).toBe('compacted');
      expect(result.lengthAfter).toBeLessThan(result.lengthBefore);
      const { mtimeNs, hash, size: length } = fileState(data);
      expect({ mtimeNs, hash, size: length }).toEqual({
        mtimeNs: state.mtimeNs,
        hash: state.hash,
        size: state.size,
      });
    });
  });

  test('with extended L2 entries', async () => {
    fs.rmSync(data, { force: true });
    create(`cluster_size=16k,extended_l2=on,data_file=${data}`, '256M');
    guestIo(image, ['write -q -P 1 0 1k', 'write -q -P 2 40M 20k', 'write -q -P 3 120M 512']);
    spoil(16384);
    const result = await compactAndJudge({ away: data });
    expect(result.lengthAfter).toBeLessThan(result.lengthBefore);
  });

  /** Ten clusters of junk before the last table, as a table that moved or was freed leaves them. */
  function spoil(cluster: number): void {
    const bytes = fs.readFileSync(image);
    const { view, l1Offset, l1Size, refcountTableOffset } = layoutOf(image);
    const end = Math.ceil(bytes.length / cluster) * cluster;
    const slots = [...Array(l1Size).keys()].map((index) => l1Offset + index * 8);
    const last = Math.max(...slots.map((slot) => offsetAt(view, slot)));
    const slot = slots.find((at) => offsetAt(view, at) === last)!;
    const moved = end + 10 * cluster;
    const longer = Buffer.alloc(moved + cluster, 0x5a);
    bytes.copy(longer);
    longer.fill(0, bytes.length, end);
    bytes.copy(longer, moved, last, last + cluster);
    longer.fill(0xa5, last, last + cluster);
    longer.writeBigUInt64BE((1n << 63n) | BigInt(moved), slot);
    const perBlock = cluster / 2;
    const count = (offset: number, value: number) => {
      const index = offset / cluster;
      const block = offsetAt(view, refcountTableOffset + Math.floor(index / perBlock) * 8);
      expect(block).toBeGreaterThan(0);
      longer.writeUInt16BE(value, block + (index % perBlock) * 2);
    };
    count(last, 0);
    count(moved, 1);
    fs.writeFileSync(image, longer);
  }

  function offsetAt(view: DataView, at: number): number {
    return Number(view.getBigUint64(at) & 0xfffffffffffe00n);
  }
});

function sourceOf(encryption: Encryption): string[] {
  return encryptedSource(image, encryption);
}

describe('legacy AES', () => {
  const encryption: Encryption = { format: 'aes', secret: 'secret' };
  test.each([512, 4096, 65536])('clusters of %i bytes', async (cluster) => {
    create(`cluster_size=${cluster}`, String(60 * cluster), encryption);
    useEncrypted(image, cluster, encryption);
    const result = await compactAndJudge({ encryption, source: sourceOf(encryption) });
    expect(result.outcome).toBe('compacted');
    expect(result.bytesMoved).toBeGreaterThan(0);
  });
});

describe('LUKS without its key', () => {
  const encryption: Encryption = { format: 'luks', secret: 'secret' };
  const source = () => sourceOf(encryption);

  describe.each([
    [512, '1.1'],
    [4096, '1.1'],
    [4096, '0.10'],
    [65536, '1.1'],
  ])('clusters of %i bytes, compat %s', (cluster, compat) => {
    const options = `cluster_size=${cluster},compat=${compat}`;

    test('data stay, tables move, the rest can be punched', async () => {
      create(options, String(60 * cluster), encryption);
      useEncrypted(image, cluster, encryption);
      const result = await compactAndJudge({ encryption, source: source() });
      expect(result.pinnedClusters).toBeGreaterThan(0);
      const { size } = fs.statSync(image);
      const before = digests(image, undefined, source());
      const erased = await eraseJunk(image, { punch: true });
      expect(erased.pinnedClusters).toBe(result.pinnedClusters);
      expect(fs.statSync(image).size).toBe(size);
      expect(digests(image, undefined, source())).toEqual(before);
      expect(checkImage(image, encryption)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
    });

    test('the end was discarded: the file ends where its data end, and takes writes again', async () => {
      create(options, String(200 * cluster), encryption);
      const write = (pattern: number, first: number, count: number) =>
        `write -q -P ${pattern} ${first * cluster} ${count * cluster}`;
      guestIo(image, [write(1, 0, 80), write(2, 100, 90)], encryption);
      // The last L2 tables at 512 bytes; of what comes last most goes.
      guestIo(image, [`discard -q ${10 * cluster} ${20 * cluster}`], encryption);
      guestIo(image, [`discard -q ${110 * cluster} ${80 * cluster}`], encryption);
      const planned = await plan(image);
      const result = await compactAndJudge({ encryption, source: source() });
      expect(result.outcome).toBe('compacted');
      expect(result.lengthBefore - result.lengthAfter).toBeGreaterThanOrEqual(75 * cluster);
      expect(planned).toMatchObject({
        lengthAfter: result.lengthAfter,
        pinnedClusters: result.pinnedClusters,
        bytesToCopy: result.bytesMoved,
      });
      expect(result.notices.join()).toMatch(/LUKS.*--secret-file/);
      guestIo(image, [write(7, 15, 8), write(8, 150, 20)], encryption);
      guestIo(
        image,
        [`read -q -P 7 ${15 * cluster} ${8 * cluster}`, `read -q -P 1 0 ${9 * cluster}`],
        encryption,
      );
      expect(checkImage(image, encryption)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
    });
  });

  test('with extended L2 entries', async () => {
    create('cluster_size=16k,extended_l2=on', '2M', encryption);
    guestIo(image, ['write -q -P 2 1M 512', 'write -q -P 1 0 608k', 'discard -q 160k 448k'], encryption);
    const result = await compactAndJudge({ encryption, source: source() });
    expect(result.outcome).toBe('compacted');
  });
});
