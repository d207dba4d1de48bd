/** On real file systems, mounted from loop devices: host holes, full disks, punched blocks. Needs the superuser. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, test, type TestContext } from 'vitest';
import { EXIT_STATUS, compact } from '../../src/index.js';
import { qemuImg, qemuIo } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, cliJson, startCli } from './cli.js';
import { digests, expectMinimal, expectValid, fileState, junkClusters, stained } from './images.js';

const MIB = 1 << 20;
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);

/** About the smallest that their mkfs takes; `aheadBytes`: what they allocate beyond what is written. */
const FILE_SYSTEMS = {
  ext4: { mkfs: ['mkfs.ext4', '-q', '-F'], mib: 64, aheadBytes: MIB / 4, shares: false },
  // A write of 1 MiB into a hole takes 2 MiB; the next one then takes none.
  xfs: {
    mkfs: ['mkfs.xfs', '-q', '-f', '-m', 'reflink=1'],
    mib: 320,
    aheadBytes: MIB + MIB / 4,
    shares: true,
  },
  btrfs: { mkfs: ['mkfs.btrfs', '-q', '-f'], mib: 160, aheadBytes: MIB / 4, shares: true },
  tmpfs: { mkfs: null, mib: 64, aheadBytes: MIB / 4, shares: false },
};
type FileSystem = keyof typeof FILE_SYSTEMS;

// Unmounted first: hooks run in reverse order.
const directory = temporaryDirectory();
const mounted: string[] = [];
afterAll(() => {
  for (const point of mounted) spawnSync('umount', ['-l', point]);
});

const problems = new Map<FileSystem, string>();
const points = new Map<FileSystem, string>();

/** A directory of that file system, empty but for what the last test left; skips the test where that cannot be. */
function mount(kind: FileSystem, context: TestContext): string {
  if (!points.has(kind) && !problems.has(kind)) {
    const problem = tryMount(kind);
    if (problem !== null) problems.set(kind, problem);
  }
  const problem = problems.get(kind);
  if (problem !== undefined) {
    // The superuser of a build machine can do all of this: there it must not be passed over.
    if (process.env.CI === 'true' && process.geteuid?.() === 0) throw new Error(problem);
    console.log(`skipped on ${kind}: ${problem}`);
    context.skip(true, problem);
  }
  const point = points.get(kind)!;
  for (const name of fs.readdirSync(point)) {
    if (name !== 'lost+found') fs.rmSync(path.join(point, name), { recursive: true });
  }
  return point;
}

function tryMount(kind: FileSystem): string | null {
  if (process.platform !== 'linux') return 'loop mounts are for Linux';
  if (process.geteuid?.() !== 0) return 'mounting needs the superuser';
  const { mkfs, mib } = FILE_SYSTEMS[kind];
  const point = directory.path(kind);
  const device = `${point}.img`;
  fs.mkdirSync(point);
  let args = ['-t', 'tmpfs', '-o', `size=${mib}m`, 'tmpfs', point];
  if (mkfs !== null) {
    fs.writeFileSync(device, '');
    fs.truncateSync(device, mib * MIB);
    const made = spawnSync(mkfs[0]!, [...mkfs.slice(1), device], { encoding: 'utf8' });
    if (made.error !== undefined) return `${mkfs[0]} is not installed`;
    if (made.status !== 0) return `${mkfs[0]}: ${made.stderr}`;
    args = ['-o', 'loop', device, point];
  }
  const done = spawnSync('mount', args, { encoding: 'utf8' });
  if (done.status !== 0) return `cannot mount ${kind}: ${done.stderr.trim()}`;
  points.set(kind, point);
  mounted.push(point);
  return null;
}

function allocated(image: string): number {
  return fs.statSync(image).blocks * 512;
}

/** Writes until not a block is left, or until `leave` bytes are. */
function fill(point: string, leave = 0): void {
  const fd = fs.openSync(path.join(point, 'filler'), 'w');
  for (const size of [MIB, 65536, 4096]) {
    const block = Buffer.alloc(size, 1);
    try {
      while (leave === 0 || free() > leave) fs.writeSync(fd, block);
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC');
    }
  }
  try {
    fs.fsyncSync(fd);
  } catch (error) {
    expect((error as NodeJS.ErrnoException).code).toBe('ENOSPC');
  }
  fs.closeSync(fd);

  function free(): number {
    const { bavail, bsize } = fs.statfsSync(point);
    return bavail * bsize;
  }
}

/** Guest data in pieces of 32 KiB, every second one discarded; holes in the host file, or stale bytes. */
function makeScattered(image: string, hostHoles: boolean, mib = 16): string {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4096', image, `${mib}M`);
  const pieces = [...Array(32 * mib).keys()];
  const options = `driver=qcow2,file.filename=${image},discard=unmap,pass-discard-request=${hostHoles ? 'on' : 'off'}`;
  qemuIo(
    options,
    [
      ...pieces.map((piece) => `write -q -P ${(piece % 250) + 1} ${piece * 32}k 32k`),
      ...pieces.filter((piece) => piece % 2 === 0).map((piece) => `discard -q ${piece * 32}k 32k`),
    ],
    ['--image-opts'],
  );
  return image;
}

const scratch = directory.path('scratch.raw');

describe.each(Object.keys(FILE_SYSTEMS) as FileSystem[])('on %s', (kind) => {
  test.for([
    ['with stale bytes', (image: string) => makeScattered(image, false)],
    ['with holes where the guest discarded', (image: string) => makeScattered(image, true)],
    ['preallocated (metadata)', (image: string) => makePreallocated(image, 'metadata')],
    ['preallocated (falloc)', (image: string) => makePreallocated(image, 'falloc')],
    ['preallocated (full)', (image: string) => makePreallocated(image, 'full')],
  ] as [string, (image: string) => string][])(
    'an image %s takes at most one round more of the host meanwhile, and less at the end',
    async ([name, make], context) => {
      await judgeBlocks(make, name === 'with stale bytes', context);
    },
  );

  async function judgeBlocks(
    make: (image: string) => string,
    allocatedJunk: boolean,
    context: TestContext,
  ): Promise<void> {
    const point = mount(kind, context);
    const image = make(path.join(point, 'image.qcow2'));
    spawnSync('sync', ['-f', image]);
    const before = {
      blocks: allocated(image),
      size: fs.statSync(image).size,
      digests: digests(image, scratch),
    };
    const roundBytes = MIB;
    let most = 0;
    // By name, without opening it: that would drop the lock.
    const result = await compact(image, {
      roundBytes,
      onProgress: () => void (most = Math.max(most, allocated(image))),
    });
    expect(result.outcome).toBe('compacted');
    expectMinimal(image);
    expect(digests(image, scratch)).toEqual(before.digests);
    spawnSync('sync', ['-f', image]);
    expect(most).toBeLessThanOrEqual(before.blocks + roundBytes + FILE_SYSTEMS[kind].aheadBytes);
    // Where all junk was holes, as many blocks are in use as before, in fewer or more extents to keep account of.
    if (allocatedJunk) expect(allocated(image)).toBeLessThan(before.blocks * 0.6);
    else expect(allocated(image)).toBeLessThanOrEqual(before.blocks + 65536);
    expect(result.lengthAfter).toBeLessThan(before.size);
  }

  test('data move by blocks that two places share, where the host can do that', async (context) => {
    const image = makeScattered(path.join(mount(kind, context), 'image.qcow2'), false);
    const before = digests(image, scratch);
    const { shares } = FILE_SYSTEMS[kind];
    const state = fileState(image);
    const planned = cliJson(['--dry-run', image]).document.images[0]!;
    expect(planned.movesBy).toBe(shares ? 'sharing' : 'copying');
    expect(fileState(image)).toEqual(state);
    const { bytesMoved, bytesShared, bytesWritten, lengthAfter } = await compact(image);
    expect(lengthAfter).toBe(planned.lengthAfter);
    expect(bytesMoved).toBeGreaterThan(4 * MIB);
    // Tables, whose bytes change, are written all the same.
    if (shares) expect(bytesShared).toBeGreaterThan(0.98 * bytesMoved);
    else expect(bytesShared).toBe(0);
    expect(bytesWritten).toBeLessThan((shares ? 0.1 : 1.1) * bytesMoved);
    expect(digests(image, scratch)).toEqual(before);
    expectMinimal(image);
  });

  test('--punch gives blocks back, and leaves the guest its data', (context) => {
    const image = makeScattered(path.join(mount(kind, context), 'image.qcow2'), false);
    spawnSync('sync', ['-f', image]);
    const before = { blocks: allocated(image), digests: digests(image, scratch) };
    const junk = junkClusters(image);
    const { run, document } = cliJson(['--erase-only', '--punch', image]);
    expect(run.status).toBe(0);
    expect(document.images[0]).toMatchObject({ method: 'punch', notices: [], clustersErased: junk.length });
    expect(allocated(image)).toBeLessThan(before.blocks - 0.9 * junk.length * 4096);
    expect(stained(image, junk)).toBe(0);
    expect(digests(image, scratch)).toEqual(before.digests);
  });

  test.for([
    ['holes', true],
    ['stale bytes', false],
  ] as [string, boolean][])(
    'a full file system: an image with %s is compacted, or one line says why not and it is valid',
    ([, hostHoles], context) => {
      const point = mount(kind, context);
      const image = makeScattered(path.join(point, 'image.qcow2'), hostHoles);
      const before = { digests: digests(image, scratch), blocks: allocated(image) };
      fill(point);
      const run = cli(['--quiet', image]);
      console.log(
        `full ${kind}, ${hostHoles ? 'holes' : 'stale bytes'}: exit ${run.status} ${run.stderr.trim()}`,
      );
      expect([0, EXIT_STATUS.NO_SPACE]).toContain(run.status);
      expectValid(image);
      expect(digests(image, scratch)).toEqual(before.digests);
      if (run.status !== 0) {
        expect(run.stderr).toMatch(/^qcow-compact: [^\n]*full[^\n]*\n$/);
        fs.rmSync(path.join(point, 'filler'));
        expect(cli(['--quiet', image])).toMatchObject({ status: 0 });
      }
      expectMinimal(image);
      expect(digests(image, scratch)).toEqual(before.digests);
    },
  );
});

function makePreallocated(image: string, preallocation: string): string {
  const options = `cluster_size=65536,preallocation=${preallocation}`;
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, '16M');
  qemuIo(image, ['write -q -P 1 1M 2M', 'write -q -P 2 12M 1M', 'discard -q 4M 6M'], ['-d', 'unmap']);
  return image;
}

test('several images on a full disk do not spend the same free bytes', (context) => {
  const point = mount('ext4', context);
  const images = ['a', 'b', 'c', 'd'].map((name) => path.join(point, `${name}.qcow2`));
  for (const image of images) {
    qemuImg('create', '-q', '-f', 'qcow2', image, '20M');
    qemuIo(
      `driver=qcow2,file.filename=${image},discard=unmap`,
      ['write -q -P 7 0 10M', 'write -q -P 9 10M 10M', 'discard -q 0 10M'],
      ['--image-opts'],
    );
  }
  fill(point, 5 * MIB);
  const run = cli(['--quiet', '--jobs', '4', ...images]);
  expect(run).toMatchObject({ status: 0, stderr: '' });
  for (const image of images) {
    expectMinimal(image);
    expect(fs.statSync(image).size).toBeLessThan(11 * MIB);
  }
});

describe('on a file system that is nearly full, where a run has many rounds', () => {
  /** 2 MiB are free beside an image that has 8 MiB to move, all of it into holes of the host file. */
  function makeCrowded(context: TestContext): { image: string; before: Record<string, string> } {
    const point = mount('ext4', context);
    const image = makeScattered(path.join(point, 'image.qcow2'), true, 32);
    const before = digests(image, scratch);
    fill(point, 2 * MIB);
    return { image, before };
  }

  test(`each killed run leaves its gain to the next one (SEED=${SEED})`, async (context) => {
    const { image, before } = makeCrowded(context);
    const random = new Random(SEED);
    const lengths = [fs.statSync(image).size];
    for (let runs = 0; ; runs++) {
      if (runs > 200) throw new Error('no run came to its end');
      const { child, ended } = startCli([image]);
      await new Promise((resolve) => child.stderr!.once('data', resolve));
      await sleep(random.int(40 + 10 * runs));
      child.kill('SIGKILL');
      const { signal, status } = await ended;
      lengths.push(fs.statSync(image).size);
      expect(lengths.at(-1)).toBeLessThanOrEqual(lengths.at(-2)!);
      expectValid(image);
      expect(digests(image, scratch)).toEqual(before);
      if (signal !== null) continue;
      expect(status).toBe(0);
      break;
    }
    console.log(`${lengths.length - 2} kills, ${new Set(lengths).size} lengths`);
    expectMinimal(image);
  });

  test.for([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as [NodeJS.Signals, number][])(
    '%s keeps the gain of the rounds before',
    async ([signal, exitStatus], context) => {
      const { image, before } = makeCrowded(context);
      let gains = 0;
      let stops = 0;
      for (let runs = 0; runs < 50; runs++) {
        const { size } = fs.statSync(image);
        const { child, ended } = startCli([image]);
        await new Promise((resolve) => child.stderr!.once('data', resolve));
        await sleep(20 + 10 * runs);
        child.kill(signal);
        const run = await ended;
        expectValid(image);
        expect(digests(image, scratch)).toEqual(before);
        // Node takes its handlers away before the process is gone: minimal below says that the work was done.
        if (run.status === 0 || run.signal !== null) break;
        stops++;
        expect(run.status).toBe(exitStatus);
        if (fs.statSync(image).size < size) gains++;
      }
      console.log(`${signal}: ${stops} stops, ${gains} with gain`);
      expect(gains).toBeGreaterThan(0);
      expectMinimal(image);
    },
  );
});
