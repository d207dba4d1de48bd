/** The command line on real images: what it prints, what it leaves, with which status it ends. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { ENTRY_NAMES, PLAN_NAMES } from '../cli/json-names.js';
import { checkImage, qemuImg, requireQemu } from '../support/qemu.js';
import { minimalClusterCount } from '../support/oracle.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, cliJson } from './cli.js';
import {
  digests,
  expectMinimal,
  expectValid,
  fileState,
  junkClusters,
  layoutOf,
  makeHoley,
  patch,
  stained,
} from './images.js';

const CLUSTER = 4096;
const directory = temporaryDirectory();
const image = directory.path('image.qcow2');

beforeEach(() => {
  requireQemu();
  fs.rmSync(image, { force: true });
  makeHoley(image);
});

/** A refcount of 1 for a cluster that nothing uses. */
function leak(target: string): void {
  const { view } = layoutOf(target);
  const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
  patch(target, block + 2 * junkClusters(target)[0]!, [0, 1]);
}

/** A refcount of 0 for the cluster of the first L2 table. */
function corrupt(target: string): void {
  const { view, l1Offset, refcountTableOffset } = layoutOf(target);
  const l2Cluster = Number(view.getBigUint64(l1Offset) & 0xfffffffffffe00n) / CLUSTER;
  patch(target, Number(view.getBigUint64(refcountTableOffset)) + 2 * l2Cluster, [0, 0]);
}

function allocated(target: string): number {
  return fs.statSync(target).blocks * 512;
}

describe('compacting', () => {
  test('makes the file minimal, keeps what the guest sees, and says so in one line', () => {
    const before = { digests: digests(image), size: fs.statSync(image).size };
    const run = cli([image]);
    expect(run.status).toBe(0);
    expect(run.stdout).toMatch(
      /^\S+image\.qcow2: 1\.0 MiB -> 5\d\d\.\d KiB \(reclaimed 5\d\d\.\d KiB, (49|50|51)%\), moved \d+\.\d KiB in \d+(\.\d)? m?s\n$/,
    );
    expect(run.stderr).toMatch(/^\S+image\.qcow2: compacting\n\S+image\.qcow2: done after \d+(\.\d)? m?s\n$/);
    expectMinimal(image);
    expect(fs.statSync(image).size).toBeLessThan(before.size);
    expect(digests(image)).toEqual(before.digests);
  });

  test('again writes nothing and says that it is compact already', () => {
    cli([image]);
    const state = fileState(image);
    const run = cli([image]);
    expect(run.status).toBe(0);
    expect(run.stdout).toMatch(/image\.qcow2: 5\d\d\.\d KiB, already compact\n$/);
    expect(run.stderr).toContain('little to reclaim');
    expect(run.stderr).toContain('fstrim');
    expect(fileState(image)).toEqual(state);
  });

  test('with --quiet prints nothing', () => {
    expect(cli(['--quiet', image])).toEqual({ status: 0, signal: null, stdout: '', stderr: '' });
    expectMinimal(image);
  });

  test('keeps an empty virtual disk', () => {
    qemuImg('create', '-q', '-f', 'qcow2', image, '0');
    expect(cli([image]).status).toBe(0);
    expectMinimal(image);
  });
});

describe('--json', () => {
  const MODES = [
    { mode: 'compact', args: [], outcome: 'compacted' },
    { mode: 'plan', args: ['--dry-run'], outcome: 'planned' },
    { mode: 'erase', args: ['--erase-only'], outcome: 'erased' },
    { mode: 'check', args: ['--check'], outcome: 'clean' },
  ] as const;

  test.each(MODES)(
    'of $mode has the documented names, and nothing else is printed',
    ({ mode, args, outcome }) => {
      const { run, document } = cliJson([...args, image]);
      expect({ status: run.status, stderr: run.stderr }).toEqual({ status: 0, stderr: '' });
      expect(document).toMatchObject({ version: 1, exitStatus: 0, error: null });
      expect(document.images).toHaveLength(1);
      const [entry] = document.images;
      expect(entry).toMatchObject({
        path: image,
        ok: true,
        mode,
        outcome,
        error: null,
        clusterBytes: CLUSTER,
      });
      expect(Object.keys(entry!).sort()).toEqual([...ENTRY_NAMES[mode]].sort());
    },
  );

  test('has the figures that are true', () => {
    const before = fs.statSync(image);
    const junk = junkClusters(image).length;
    const plan = cliJson(['--dry-run', image]).document.images[0]!;
    const result = cliJson([image]).document.images[0]!;
    const after = fs.statSync(image);
    expect(result).toMatchObject({
      lengthBefore: before.size,
      lengthAfter: after.size,
      allocatedBefore: before.blocks * 512,
      allocatedAfter: after.blocks * 512,
      clusters: { total: before.size / CLUSTER, live: before.size / CLUSTER - junk, junk, leaked: 0 },
      bytesMoved: Number(plan.clustersToMove) * CLUSTER,
    });
    for (const name of [...PLAN_NAMES, 'clusters', 'virtualBytes']) expect(result[name]).toEqual(plan[name]);
  });

  test.each(MODES)('of $mode that fails has the error', ({ mode, args }) => {
    const other = directory.store('other', Buffer.from('no image'));
    const { run, document } = cliJson([...args, other]);
    const exitStatus = mode === 'check' ? 1 : 4;
    expect(run.status).toBe(exitStatus);
    expect(run.stderr).toMatch(/^qcow-compact: \S+other: not a qcow2 image.*\n$/);
    expect(document.exitStatus).toBe(exitStatus);
    expect(document.images).toEqual([
      {
        ...{ path: other, ok: false, mode, outcome: 'failed' },
        error: { code: 'NOT_QCOW2', message: expect.any(String) as string, exitStatus },
      },
    ]);
  });

  test('of a wrong command line has the error and no image', () => {
    const { run, document } = cliJson(['--frobnicate', image]);
    expect(run.status).toBe(64);
    expect(document).toMatchObject({
      version: 1,
      images: [],
      error: { code: 'USAGE', exitStatus: 64 },
      exitStatus: 64,
    });
  });
});

test.each([
  [['--frobnicate', 'x'], 'unknown option'],
  [[], 'no image given'],
  [['--keep-erased', '-3', 'x'], '--keep-erased'],
  [['--keep-erased', '1.5', 'x'], 'whole number of clusters'],
  [['--keep-erased', '99999999999999999999', 'x'], 'whole number of clusters'],
  [['--punch', 'x'], '--punch'],
  [['--check', '--dry-run', 'x'], 'cannot be given together'],
])('a wrong command line %j is one line and status 64', (args, words) => {
  const run = cli(args);
  expect(run.status).toBe(64);
  expect(run.stdout).toBe('');
  expect(run.stderr).toMatch(/^qcow-compact: .*\n$/);
  expect(run.stderr).toContain(words);
});

describe('--dry-run', () => {
  test('tells what a run would do, and writes nothing', () => {
    const state = fileState(image);
    const run = cli(['--dry-run', image]);
    expect(run.status).toBe(0);
    expect(fileState(image)).toEqual(state);
    expect(run.stdout).toMatch(/would reclaim/);
    for (const label of [
      'length before',
      'length after',
      'clusters',
      'live',
      'junk',
      'leaked',
      'to move',
      'to copy',
    ]) {
      expect(run.stdout).toMatch(new RegExp(`^  ${label} +\\d`, 'm'));
    }
  });
});

describe('--check', () => {
  /** Ours and QEMU's status. */
  function statuses(target: string): (number | null)[] {
    return [cli(['--check', target]).status, spawnSync('qemu-img', ['check', target]).status];
  }

  test('ends as qemu-img check does: 0 clean, 3 leaks, 2 corruptions, 1 no check, and writes nothing', () => {
    expect(statuses(image)).toEqual([0, 0]);
    leak(image);
    const leaky = fileState(image);
    expect(statuses(image)).toEqual([3, 3]);
    expect(cliJson(['--check', image]).document.images[0]).toMatchObject({
      outcome: 'leaks',
      ok: false,
      ...counts(),
    });
    expect(fileState(image)).toEqual(leaky);
    corrupt(image);
    const broken = fileState(image);
    expect(statuses(image)).toEqual([2, 2]);
    expect(cliJson(['--check', image]).document.images[0]).toMatchObject({
      outcome: 'corrupt',
      ok: false,
      ...counts(),
    });
    expect(fileState(image)).toEqual(broken);
    fs.truncateSync(image, 50);
    expect(statuses(image)).toEqual([1, 1]);
    expect(statuses(directory.path('missing'))).toEqual([1, 1]);

    function counts() {
      const { corruptions, leaks } = checkImage(image);
      return { corruptions, leaks };
    }
  });

  test('says what it found', () => {
    expect(cli(['--check', image]).stdout).toContain('No errors were found on the image.');
    leak(image);
    expect(cli(['--check', image]).stdout).toContain('1 leaked clusters were found on the image.');
  });
});

describe('leaks', () => {
  test('are freed', () => {
    leak(image);
    const run = cli([image]);
    expect(run.status).toBe(0);
    expect(run.stdout).toContain('1 leaked cluster freed');
    expectMinimal(image);
  });
});

describe('--erase-only', () => {
  test('leaves zeroes where there was junk, and everything else as it was', () => {
    const before = { digests: digests(image), size: fs.statSync(image).size };
    const junk = junkClusters(image);
    expect(stained(image, junk)).toBe(junk.length);
    const run = cli(['--erase-only', image]);
    expect(run.status).toBe(0);
    expect(run.stdout).toContain(`erased ${junk.length} clusters`);
    expect(junkClusters(image)).toEqual(junk);
    expect(stained(image, junk)).toBe(0);
    expect({ digests: digests(image), size: fs.statSync(image).size }).toEqual(before);
    expect(checkImage(image)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
  });

  test('frees leaked clusters and erases them too', () => {
    leak(image);
    const { document } = cliJson(['--erase-only', image]);
    const junk = junkClusters(image);
    expect(document.images[0]).toMatchObject({ leaksReclaimed: 1, clustersErased: junk.length });
    expect(stained(image, junk)).toBe(0);
    expect(checkImage(image).leaks).toBe(0);
  });

  test.each([0, 1, 10, 1_000_000])('--keep-erased %i erases that many', (wanted) => {
    const before = { digests: digests(image), size: fs.statSync(image).size };
    const junk = junkClusters(image);
    const erased = Math.min(wanted, junk.length);
    const { run, document } = cliJson(['--erase-only', '--keep-erased', String(wanted), image]);
    expect(run.status).toBe(0);
    expect(document.images[0]).toMatchObject({
      clustersErased: erased,
      outcome: wanted === 0 ? 'clean' : 'erased',
    });
    expect(stained(image, junk)).toBe(junk.length - erased);
    expect({ digests: digests(image), size: fs.statSync(image).size }).toEqual(before);
  });

  test('--punch gives the blocks back to the host, and then there is nothing left to do', () => {
    const before = { digests: digests(image), size: fs.statSync(image).size };
    const blocks = allocated(image);
    const junk = junkClusters(image);
    const { run, document } = cliJson(['--erase-only', '--punch', image]);
    expect(run.status).toBe(0);
    expect(document.images[0]).toMatchObject({ method: 'punch', clustersErased: junk.length, notices: [] });
    expect(stained(image, junk)).toBe(0);
    // The host may need a block more to note down where the holes are.
    expect(allocated(image)).toBeLessThanOrEqual(blocks - (junk.length - 2) * CLUSTER);
    expect({ digests: digests(image), size: fs.statSync(image).size }).toEqual(before);

    const state = fileState(image);
    expect(cliJson(['--erase-only', image]).document.images[0]).toMatchObject({
      ...{
        outcome: 'clean',
        clustersErased: junk.length,
        clustersAlreadyHoles: junk.length,
        bytesWritten: 0,
      },
    });
    expect(fileState(image)).toEqual(state);
  });
});

describe('--keep-erased N', () => {
  test.each([
    [0, []],
    [1, []],
    [10, []],
    [10, ['--punch']],
  ])('%i leaves a pool of as many erased clusters behind what is live %j', (wanted, options) => {
    const before = digests(image);
    const run = cli(['--keep-erased', String(wanted), ...options, image]);
    expect(run.status).toBe(0);
    expectMinimal(image, wanted);
    const pool = junkClusters(image);
    expect(pool).toHaveLength(wanted);
    expect(stained(image, pool)).toBe(0);
    expect(digests(image)).toEqual(before);

    const state = fileState(image);
    cli([image, '--keep-erased', String(wanted), ...options]);
    expect({ ...fileState(image), mtimeNs: 0, blocks: 0 }).toEqual({ ...state, mtimeNs: 0, blocks: 0 });
  });

  test('is no more than the junk that there was', () => {
    const before = { digests: digests(image), size: fs.statSync(image).size };
    const junk = junkClusters(image).length;
    expect(cli(['--keep-erased', '1000000', image]).status).toBe(0);
    expectValid(image);
    const pool = junkClusters(image);
    expect(pool).toHaveLength(junk);
    expect(stained(image, pool)).toBe(0);
    expect({ digests: digests(image), size: fs.statSync(image).size }).toEqual(before);
  });

  test('can be grown into: the guest writes into the pool, and all is well', () => {
    cli(['--keep-erased', '20', image]);
    const { size } = fs.statSync(image);
    spawnSync('qemu-io', ['-c', 'write -P 9 0 64k', image]);
    expect(fs.statSync(image).size).toBe(size);
    expect(checkImage(image)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
  });
});

describe('several images', () => {
  test('are all worked on when one fails, whose status decides', () => {
    const bad = directory.store('bad', Buffer.from('bad'));
    const last = makeHoley(directory.path('last.qcow2'));
    const missing = directory.path('missing');
    const { run, document } = cliJson([image, bad, missing, last]);
    expect(run.status).toBe(4);
    expect(run.stderr.split('\n')).toHaveLength(3);
    expect(document.exitStatus).toBe(4);
    expect(document.images.map(({ ok, error }) => [ok, error?.code])).toEqual([
      [true, undefined],
      [false, 'NOT_QCOW2'],
      [false, 'CANNOT_OPEN'],
      [true, undefined],
    ]);
    expectMinimal(image);
    expectMinimal(last);
  });

  test('may be the same one twice', () => {
    const { run, document } = cliJson([image, image]);
    expect(run.status).toBe(0);
    expect(document.images.map(({ outcome }) => outcome)).toEqual(['compacted', 'clean']);
  });
});

describe('the name of an image', () => {
  test('may be a symbolic link, which stays one', () => {
    const link = directory.path('link');
    fs.symlinkSync('image.qcow2', link);
    expect(cli([link]).status).toBe(0);
    expect(fs.readlinkSync(link)).toBe('image.qcow2');
    expectMinimal(image);
  });

  test('may be a hard link, and both see the result', () => {
    const link = directory.path('hard');
    fs.linkSync(image, link);
    const { ino } = fs.statSync(image);
    expect(cli([link]).status).toBe(0);
    for (const name of [image, link]) {
      expect(fs.statSync(name)).toMatchObject({ ino, nlink: 2 });
      expectMinimal(name);
    }
    fs.rmSync(link);
  });

  test('keeps owner and mode', () => {
    fs.chmodSync(image, 0o640);
    cli([image]);
    expect(fs.statSync(image).mode & 0o7777).toBe(0o640);
  });

  test.each(['with spaces', 'line\nbreak', '-dash', '--check', 'ü 💾', '\x1b[31mred', 'json:{}', 'nbd://x'])(
    'may be %j',
    (name) => {
      const cwd = path.dirname(image);
      fs.copyFileSync(image, path.join(cwd, 'named'));
      fs.mkdirSync(path.dirname(path.join(cwd, name)), { recursive: true });
      fs.renameSync(path.join(cwd, 'named'), path.join(cwd, name));
      const run = cli(['--', name], { cwd });
      expect(run.status).toBe(0);
      expect(run.stdout.split('\n')).toHaveLength(2);
      expect(run.stderr.split('\n')).toHaveLength(3);
      // eslint-disable-next-line no-control-regex
      expect(run.stdout + run.stderr).not.toMatch(/\x1b/);
      fs.renameSync(path.join(cwd, name), path.join(cwd, 'named'));
      expectMinimal(path.join(cwd, 'named'));
    },
  );
});

describe('what is unusual but allowed', () => {
  test('a file whose length is no multiple of the cluster size', () => {
    const before = digests(image);
    fs.appendFileSync(image, Buffer.alloc(100, 7));
    expect(cli([image]).status).toBe(0);
    expectMinimal(image);
    expect(digests(image)).toEqual(before);
  });

  test('junk of any length after the last cluster, whose refcounts nothing describes', () => {
    const before = digests(image);
    fs.truncateSync(image, 2 ** 40);
    expect(cli([image]).status).toBe(0);
    expectMinimal(image);
    expect(digests(image)).toEqual(before);
  });

  test('a backing file that is missing is neither needed nor made', () => {
    const overlay = directory.path('overlay.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', image, '-F', 'qcow2', '-o', 'cluster_size=4096', overlay);
    spawnSync('qemu-io', ['-d', 'unmap', '-c', 'write 0 512k', '-c', 'discard 64k 64k', overlay]);
    const before = digests(overlay);
    fs.renameSync(image, `${image}.away`);
    expect(cli([overlay]).status).toBe(0);
    expect(fs.existsSync(image)).toBe(false);
    fs.renameSync(`${image}.away`, image);
    expectMinimal(overlay);
    expect(digests(overlay)).toEqual(before);
  });

  test('lazy refcounts in an image that was closed, and zstd without compressed clusters', () => {
    makeHoley(image, 'cluster_size=4096,lazy_refcounts=on,compression_type=zstd');
    const before = digests(image);
    expect(cli([image]).status).toBe(0);
    expectMinimal(image);
    expect(digests(image)).toEqual(before);
    expect(qemuImg('info', image)).toContain('zstd');
  });

  test('the machine state of a snapshot stays', () => {
    spawnSync('qemu-io', ['-c', 'write -b -P 9 0 100k', image]);
    qemuImg('snapshot', '-c', 'running', image);
    spawnSync('qemu-io', ['-d', 'unmap', '-c', 'discard 256k 256k', image]);
    const minimal = minimalClusterCount(fs.readFileSync(image));
    expect(cli([image]).status).toBe(0);
    expect(fs.statSync(image).size).toBe(minimal * CLUSTER);
    qemuImg('snapshot', '-a', 'running', image);
    const read = spawnSync('qemu-io', ['-c', 'read -b -P 9 0 100k', image], { encoding: 'utf8' });
    expect(read.stdout).not.toContain('failed');
  });
});
