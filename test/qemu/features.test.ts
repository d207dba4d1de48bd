/**
 * The main promise for images with features of their own: given an image that QEMU made, compacting it leaves a
 * valid image with no leak, no excess cluster and the same content in every layer; a second run changes nothing.
 */
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type CompactResult, compact } from '../../src/index.js';
import { digests, expectMinimal, fileState, fixedHeader, guestIo, layoutOf } from '../e2e/images.js';
import { minimalClusterCount } from '../support/oracle.js';
import { type Encryption, qemuImg } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();
const image = directory.path('image.qcow2');

function create(options: string, size: string): void {
  fs.rmSync(image, { force: true });
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, size);
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
