/** --max-time, --limit-rate and --threshold on real files. */
import fs from 'node:fs';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { guestIo } from './images.js';
import { qemuImg, requireQemu } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, cliJson } from './cli.js';
import { digests, expectMinimal, expectValid, fileState, hashFile } from './images.js';

const directory = temporaryDirectory();
const original = directory.path('original.qcow2');
const image = directory.path('image.qcow2');
const other = directory.path('other.qcow2');
let content: Record<string, string>;

/** 24 MiB, every second MiB discarded: at 1 MiB a round there are many barriers. */
beforeAll(() => {
  requireQemu();
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4096', original, '24M');
  const pieces = [...Array(24).keys()];
  guestIo(original, [
    ...pieces.map((piece) => `write -q -P ${piece + 1} ${piece}M 1M`),
    ...pieces.filter((piece) => piece % 2 === 0).map((piece) => `discard -q ${piece}M 1M`),
  ]);
  content = digests(original);
});

beforeEach(() => {
  for (const name of [image, other]) fs.copyFileSync(original, name);
});

describe('--max-time', () => {
  test('stops at a barrier and keeps the gain; a second run finishes', () => {
    const { run, document } = cliJson(['--max-time', '2', '--limit-rate', '1M', image, other]);
    expect({ status: run.status, stderr: run.stderr }).toEqual({ status: 75, stderr: '' });
    const [first, second] = document.images as Record<string, number>[];
    expect(first).toMatchObject({ outcome: 'out-of-time', ok: false, error: null });
    expect(second).toMatchObject({ outcome: 'no-time-left', ok: false, error: null });
    expect(fs.readFileSync(other).equals(fs.readFileSync(original))).toBe(true);

    // Six seconds' work and more was not done.
    expect(first!.bytesLeftToMove).toBeGreaterThan(0);
    expect(first!.seconds).toBeLessThan(10);
    const length = fs.statSync(image).size;
    expect(length).toBe(first!.lengthAfter);
    expect(length).toBeLessThan(first!.lengthBefore!);
    expectValid(image);
    expect(digests(image)).toEqual(content);

    expect(cli(['--quiet', image])).toMatchObject({ status: 0, stdout: '', stderr: '' });
    expectMinimal(image);
    expect(fs.statSync(image).size).toBe(length - first!.bytesLeftToReclaim!);
    expect(digests(image)).toEqual(content);
  });

  test('says on a terminal-less stderr that the time is up, and on stdout what is left', () => {
    const run = cli(['--max-time', '1s', '--limit-rate', '1M', image, other]);
    expect(run.status).toBe(75);
    expect(run.stderr).toContain('qcow-compact: time is up, stopping at the next barrier\n');
    const [first, second] = run.stdout.split('\n');
    expect(first).toMatch(
      /image\.qcow2: out of time: .* left to reclaim, .* to move; the image is valid .*$/,
    );
    expect(second).toMatch(/other\.qcow2: not begun, the time was over$/);
  });

  test('that is enough leaves no trace', () => {
    expect(cli(['--quiet', '--max-time', '1h', image])).toMatchObject({ status: 0, stderr: '', stdout: '' });
    expectMinimal(image);
  });
});

describe('--limit-rate', () => {
  test('takes the time that its bytes need, however many images share it', () => {
    const plan = cliJson(['--dry-run', image]).document.images[0] as unknown as { bytesToCopy: number };
    const from = performance.now();
    expect(cli(['--quiet', '--jobs', '2', '--limit-rate', '8M', image, other]).status).toBe(0);
    const seconds = (performance.now() - from) / 1000;
    // What it may not exceed; how long it takes beyond that depends on the machine.
    expect(seconds).toBeGreaterThan((2 * plan.bytesToCopy) / (8 << 20) - 0.5);
    for (const name of [image, other]) {
      expectMinimal(name);
      expect(digests(name)).toEqual(content);
    }
  });

  test('is a wrong command line where it is no rate', () => {
    const run = cli(['--limit-rate', '50MB', image]);
    expect(run.status).toBe(64);
    expect(run.stderr).toMatch(/^qcow-compact: `--limit-rate` must be .*; got `50MB`\n$/);
  });
});

describe('--threshold', () => {
  test.each([['60%'], ['1G']])('of %s leaves an image of less gain alone, bytes and times', (threshold) => {
    const state = fileState(image);
    const run = cli(['--threshold', threshold, image]);
    expect(run.status).toBe(0);
    expect(run.stdout).toMatch(
      /^\S+image\.qcow2: 24\.\d MiB, left alone: 12\.\d MiB \(\d+\.\d%\) to reclaim is below the threshold\n$/,
    );
    expect(run.stderr).toBe('');
    expect(fileState(image)).toEqual(state);
    const { run: asJson, document } = cliJson(['--threshold', threshold, image]);
    expect(asJson.status).toBe(0);
    const plan = cliJson(['--dry-run', image]).document.images[0] as unknown as Record<string, number>;
    expect(document.images[0]).toMatchObject({
      ok: true,
      outcome: 'below-threshold',
      bytesLeftToReclaim: plan.lengthBefore! - plan.lengthAfter!,
      bytesLeftToMove: plan.bytesToCopy,
    });
    expect(fileState(image)).toEqual(state);
  });

  test.each([['40%'], ['10M'], ['0']])('of %s compacts what gains more', (threshold) => {
    expect(cli(['--quiet', '--threshold', threshold, image]).status).toBe(0);
    expectMinimal(image);
    const after = hashFile(image);
    expect(cliJson(['--threshold', threshold, image]).document.images[0]).toMatchObject({ outcome: 'clean' });
    expect(hashFile(image)).toBe(after);
  });
});
