/** Several images at the same time, on real files. */
import { once } from 'node:events';
import fs from 'node:fs';
import { beforeEach, describe, expect, test } from 'vitest';
import { checkImage, requireQemu } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, cliJson, startCli } from './cli.js';
import { digests, expectMinimal, expectValid, fileState, makeHoley } from './images.js';

const directory = temporaryDirectory();
const original = directory.path('original.qcow2');
const names = ['a.qcow2', 'b.qcow2', 'c.qcow2', 'd.qcow2'].map((name) => directory.path(name));

beforeEach(() => {
  requireQemu();
  if (!fs.existsSync(original)) makeHoley(original);
  for (const name of names) {
    fs.rmSync(name, { force: true });
    fs.copyFileSync(original, name);
  }
});

test('three at a time with a corrupt one among them: the others are compacted, the document is in order', () => {
  const before = digests(original);
  const bad = directory.store('bad.qcow2', fs.readFileSync(original).fill(0xff, 4096, 65536));
  const state = fileState(bad);
  const [a, b, c, d] = names as [string, string, string, string];
  const { run, document } = cliJson(['--jobs', '3', a, b, bad, c, d]);
  expect(run.status).toBe(5);
  expect(run.stderr).toMatch(/^qcow-compact: \S+bad\.qcow2: [^\n]*\n$/);
  expect(document.images.map(({ path, outcome }) => [path, outcome])).toEqual([
    [a, 'compacted'],
    [b, 'compacted'],
    [bad, 'failed'],
    [c, 'compacted'],
    [d, 'compacted'],
  ]);
  expect(fileState(bad)).toEqual(state);
  for (const name of names) {
    expectMinimal(name);
    expect(digests(name)).toEqual(before);
  }
});

test('each is reported by whole lines, once', () => {
  const { status, stdout } = cli(['--jobs', '4', '--dry-run', ...names]);
  expect(status).toBe(0);
  const alone = names.map((name) => cli(['--dry-run', name]).stdout);
  for (const report of alone) expect(stdout).toContain(report);
  expect(stdout.length).toBe(alone.join('').length);
});

describe('the same file by other names', () => {
  const hard = directory.path('hard');
  const symbolic = directory.path('symbolic');

  beforeEach(() => {
    for (const name of [hard, symbolic]) fs.rmSync(name, { force: true });
    fs.linkSync(names[0]!, hard);
    fs.symlinkSync(names[0]!, symbolic);
  });

  test('is worked on by one job after the other', () => {
    const paths = [names[0]!, hard, names[1]!, symbolic, names[0]!];
    const { run, document } = cliJson(['--jobs', '5', ...paths]);
    expect({ status: run.status, stderr: run.stderr }).toEqual({ status: 0, stderr: '' });
    expect(document.images.map(({ outcome }) => outcome)).toEqual([
      'compacted',
      'clean',
      'compacted',
      'clean',
      'clean',
    ]);
    expectMinimal(names[0]!);
  });

  test('stays locked against QEMU all the while', async () => {
    // So slow that QEMU has the time to try: the second job must not have taken the first one's lock away.
    const paths = [names[0]!, hard, symbolic];
    const { child, ended } = startCli(['--jobs', '3', '--limit-rate', '40K', ...paths]);
    await once(child.stderr!, 'data');
    for (let tries = 0; tries < 5; tries++) expect(() => checkImage(names[0]!)).toThrow(/lock/);
    child.kill('SIGINT');
    expect((await ended).status).toBe(130);
    expectValid(names[0]!);
  });
});

test('an interrupt stops all of them, and starts no other', async () => {
  const args = ['--json', '--jobs', '3', '--limit-rate', '200K', ...names];
  const { child, ended } = startCli(args);
  // All three at work have changed something.
  const before = names.map((name) => fs.statSync(name).mtimeMs);
  const haveBegun = () => names.slice(0, 3).every((name, i) => fs.statSync(name).mtimeMs > before[i]!);
  for (let tries = 0; tries < 500 && !haveBegun(); tries++)
    await new Promise((resolve) => setTimeout(resolve, 20));
  expect(haveBegun()).toBe(true);
  child.kill('SIGTERM');
  const { status, stdout } = await ended;
  expect(status).toBe(143);
  const { images } = JSON.parse(stdout) as { images: { outcome: string }[] };
  expect(images.map(({ outcome }) => outcome)).toEqual([
    'interrupted',
    'interrupted',
    'interrupted',
    'not-started',
  ]);
  for (const name of names) expectValid(name);
  expect(fs.readFileSync(names[3]!).equals(fs.readFileSync(original))).toBe(true);
});
