/** `--repair` on the command line: what it takes, what it prints, with which status it ends. */
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ENTRY_NAMES } from '../cli/json-names.js';
import { abortedQemu } from '../qemu/crashed-qemu.js';
import { checkImage } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, cliJson, startCli } from './cli.js';
import { digests, expectMinimal, fileState, junkClusters, layoutOf, makeHoley, patch } from './images.js';

const CLEAN = { corruptions: 0, leaks: 0, errors: 0 };
const directory = temporaryDirectory();
/** Left dirty by QEMU. */
const dirty = directory.path('dirty.qcow2');
const image = directory.path('image.qcow2');
let content: Record<string, string>;

beforeAll(() => {
  abortedQemu(dirty, new Random(5), { options: 'cluster_size=4k,lazy_refcounts=on', snapshot: true }, 40);
  content = digests(dirty);
});

beforeEach(() => fs.copyFileSync(dirty, image));

test('a sound image in a sparse file of any length is compacted as without --repair', () => {
  makeHoley(image);
  fs.truncateSync(image, 2 ** 41);
  expect(cli(['--quiet', '--repair', image])).toMatchObject({ status: 0, stderr: '' });
  expect(fs.statSync(image).size).toBeLessThan(2 ** 24);
  expectMinimal(image);
});

describe('an image that QEMU left dirty', () => {
  test('is refused in one line that says how, untouched', () => {
    const state = fileState(image);
    const refusals: [string[], number][] = [
      [[], 5],
      [['--dry-run'], 5],
      [['--erase-only'], 5],
      [['--check'], 1],
      [['--check', '--repair', 'leaks'], 2],
    ];
    for (const [args, status] of refusals) {
      const run = cli(['--quiet', ...args, image]);
      expect(run, args.join(' ')).toMatchObject({ status, stdout: '' });
      expect(run.stderr).toMatch(/^qcow-compact: [^\n]*marked dirty[^\n]*`--repair all`[^\n]*\n$/);
    }
    expect(fileState(image)).toEqual(state);
  });

  test.each([[['--repair']], [['--repair', 'all']], [['--repair=all']]])('is compacted with %j', (args) => {
    const run = cli([...args, image]);
    expect(run.status).toBe(0);
    expect(run.stdout).toMatch(/ -> .* moved .*, repaired \d+ errors.*the mark `dirty` cleared/);
    expectMinimal(image);
    expect(digests(image)).toEqual(content);
  });

  test('is repaired alone with --check', () => {
    const run = cli(['--check', '--repair', image]);
    expect(run.status).toBe(0);
    expect(run.stdout).toMatch(
      /^\S+:\n(ERROR|Leaked) [^]*\nRepaired: \d+ errors.*, the mark `dirty` cleared\.\nNo errors were found on the image\.\n$/,
    );
    expect(checkImage(image)).toEqual(CLEAN);
    expect(digests(image)).toEqual(content);
    expect(cli(['--check', '--repair', 'all', image])).toMatchObject({
      status: 0,
      stdout: `${image}:\nNo errors were found on the image.\n`,
    });
  });

  test('gives a document with the documented names', () => {
    const repaired = cliJson(['--check', '--repair', image]).document;
    expect(repaired).toMatchObject({
      exitStatus: 0,
      images: [{ mode: 'repair', outcome: 'repaired', ok: true }],
    });
    expect(Object.keys(repaired.images[0]!).sort()).toEqual([...ENTRY_NAMES.repair].sort());
    fs.copyFileSync(dirty, image);
    const compacted = cliJson(['--repair', image]).document.images[0]!;
    expect(compacted).toMatchObject({ outcome: 'compacted', repaired: { marksCleared: ['dirty'] } });
    expect(Object.keys(compacted).sort()).toEqual([...ENTRY_NAMES.compact].sort());
  });
});

test('leaks alone are repaired in place, without a compaction', () => {
  fs.rmSync(image);
  makeHoley(image);
  const { view, refcountTableOffset } = layoutOf(image);
  const block = Number(view.getBigUint64(refcountTableOffset));
  patch(image, block + 2 * junkClusters(image)[0]!, [0, 1]);
  const { size } = fs.statSync(image);
  const run = cli(['--check', '--repair', 'leaks', image]);
  expect(run).toMatchObject({ status: 0 });
  expect(run.stdout).toMatch(/Repaired: 1 leaked cluster\.\nNo errors/);
  expect(checkImage(image)).toEqual(CLEAN);
  expect(fs.statSync(image).size).toBe(size);
});

test('what would lose data is refused, with the place, untouched', () => {
  const { view, l1Offset } = layoutOf(image);
  const slot = [...Array(8).keys()]
    .map((at) => l1Offset + at * 8)
    .find((at) => view.getBigUint64(at) !== 0n)!;
  patch(image, slot, [0x80, 0, 0, 0x40, 0, 0, 0, 0]);
  const state = fileState(image);
  for (const [args, status] of [
    [['--repair'], 5],
    [['--check', '--repair'], 2],
  ] as const) {
    const run = cli(['--quiet', ...args, image]);
    expect(run).toMatchObject({ status, stdout: '' });
    expect(run.stderr).toMatch(
      new RegExp(
        `^qcow-compact: [^\\n]*without losing data[^\\n]*beyond the end[^\\n]*0x${slot.toString(16)}[^\\n]*\\n$`,
      ),
    );
  }
  expect(fileState(image)).toEqual(state);
});

test('a repair that is killed at random can be begun again', async () => {
  const { child, ended } = startCli(['--repair', image]);
  const from = performance.now();
  child.stderr!.resume();
  await ended;
  const wholeMs = performance.now() - from;
  const random = new Random(Date.now());
  let killed = 0;
  // On a busy machine the first run may have taken much longer than these.
  for (let run = 0; run < 6 || (killed === 0 && run < 40); run++) {
    fs.copyFileSync(dirty, image);
    const { child, ended } = startCli([...(run % 2 === 0 ? ['--check'] : []), '--repair', image]);
    // On a quiet one it begins to write in the second half.
    await sleep(wholeMs * (0.2 + random.int(80) / 100));
    child.kill('SIGKILL');
    if ((await ended).signal !== null) killed++;
    expect(cli(['--quiet', '--repair', image]).status).toBe(0);
    expectMinimal(image);
    expect(digests(image)).toEqual(content);
  }
  expect(killed).toBeGreaterThan(0);
}, 120_000);

test('an image that is named like a choice is given with its path', () => {
  fs.copyFileSync(dirty, directory.path('leaks'));
  const cwd = directory.path('.');
  expect(cli(['--repair', './leaks'], { cwd }).status).toBe(0);
  expect(cli(['--repair', 'leaks'], { cwd })).toMatchObject({ status: 64 });
  expectMinimal(directory.path('leaks'));
});
