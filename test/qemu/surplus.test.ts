/** What QEMU leaves in an image without need: L2 tables without an entry, and preallocated clusters of zeroes. */
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { compact, plan } from '../../src/index.js';
import { cli, cliJson } from '../e2e/cli.js';
import { digests, expectMinimal, layoutOf } from '../e2e/images.js';
import { qemuImg, qemuIo } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();
const image = directory.path('image.qcow2');
const scratch = directory.path('scratch.raw');

function create(options: string, size: string): void {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, size);
}

const clusters = () => fs.statSync(image).size / layoutOf(image).clusterSize;

describe('L2 tables without an entry', () => {
  // A discard leaves the zero flag in later versions, with which a table is not empty.
  test.each([
    ['cluster_size=4096', 1],
    ['cluster_size=512', 2],
  ])('are released: compat=0.10,%s', async (size, tables) => {
    create(`compat=0.10,${size}`, '64M');
    qemuIo(image, ['write -P 1 0 16k', 'write -P 2 32M 64k']);
    qemuImg('snapshot', '-c', 'a', image);
    qemuIo(image, ['write -P 3 32M 8k', 'discard 32M 64k']);
    qemuImg('snapshot', '-d', 'a', image);
    const before = digests(image, scratch);
    expect((await plan(image)).tablesReleased).toBe(tables);
    const { outcome, tablesReleased } = await compact(image, { runtimeAsserts: true });
    expect({ outcome, tablesReleased }).toEqual({ outcome: 'compacted', tablesReleased: tables });
    expectMinimal(image);
    const { clusterSize, l1Size } = layoutOf(image);
    // Header, refcount table and block, L1 table, L2 table, data.
    const l1Clusters = Math.ceil((l1Size * 8) / clusterSize);
    const blocks = Math.ceil(clusters() / (clusterSize / 2));
    expect(clusters()).toBe(3 + blocks + l1Clusters + 16384 / clusterSize);
    expect(digests(image, scratch)).toEqual(before);
    expect((await compact(image)).outcome).toBe('clean');
  });
});

describe('preallocated clusters that read as zeroes', () => {
  test.each(['cluster_size=4096', 'cluster_size=64k,extended_l2=on', 'cluster_size=512,refcount_bits=2'])(
    'with %s stay, unless they are given up',
    async (options) => {
      create(options, '8M');
      const { clusterSize } = layoutOf(image);
      qemuIo(image, [`write -P 1 0 ${20 * clusterSize}`, `write -z ${4 * clusterSize} ${10 * clusterSize}`]);
      qemuImg('snapshot', '-c', 'a', image);
      qemuIo(image, [`write -z 0 ${2 * clusterSize}`, `write -P 7 ${5 * clusterSize} ${clusterSize}`]);
      const before = digests(image, scratch);
      const kept = await compact(image, { runtimeAsserts: true });
      expect(kept.preallocationReleased).toBe(0);
      expect(digests(image, scratch)).toEqual(before);
      const length = clusters();

      const { images } = cliJson(['--dry-run', '--drop-preallocation', image]).document;
      expect(images[0]).toMatchObject({ mode: 'plan', tablesReleased: 0 });
      const given = images[0]!.preallocationReleased as number;
      expect(given).toBeGreaterThanOrEqual(10);
      expect(clusters()).toBe(length);
      const run = cli(['--drop-preallocation', image]);
      expect(run.status).toBe(0);
      expect(run.stdout).toContain(`${given} preallocated clusters given up`);
      expect(clusters()).toBeLessThanOrEqual(length - given);
      expect(digests(image, scratch)).toEqual(before);
      expectMinimal(image);
      expect(cli(['--drop-preallocation', image]).stdout).toContain('already compact');
    },
  );
});
