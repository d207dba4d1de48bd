/** The real command line killed, interrupted and terminated at random moments, on a real file. */
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { qemuImg, qemuIo } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, startCli, type CliRun } from './cli.js';
import { digests, expectMinimal, expectValid } from './images.js';

const KILLS = 50;
/** Pass it back to see the same moments, as far as the machine's load lets them be the same. */
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);

const directory = temporaryDirectory();
/** As it was before any run; never opened by the command line. */
const original = directory.path('original.qcow2');
const image = directory.path('image.qcow2');
const random = new Random(SEED);
let content: Record<string, string>;
/** From the start to the end of a whole run, and to its first line; milliseconds. */
let wholeRunMs: number;
let startMs: number;

/** Most of every second piece is discarded, of some of them after a snapshot. */
beforeAll(async () => {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4096', original, '64M');
  const pieces = [...Array(1024).keys()];
  const discards = pieces.filter((piece) => piece % 2 === 1).map((piece) => `discard -q ${piece * 64}k 20k`);
  const writes = pieces.map((piece) => `write -q -P ${(piece % 250) + 1} ${piece * 64}k 28k`);
  qemuIo(original, [...writes, ...discards.slice(0, 256)], ['-d', 'unmap']);
  qemuImg('snapshot', '-c', 'a', original);
  qemuIo(original, [...writes.slice(300, 400), ...discards.slice(256)], ['-d', 'unmap']);
  qemuImg('snapshot', '-c', 'b', original);
  qemuImg('snapshot', '-d', 'a', original);
  content = digests(original);
  restore();
  const from = performance.now();
  const { child, ended } = startCli([image]);
  child.stderr!.once('data', () => (startMs = performance.now() - from));
  expect((await ended).status).toBe(0);
  wholeRunMs = performance.now() - from;
});

function restore(): void {
  fs.copyFileSync(original, image);
}

/** Starts a run, signals it at a random moment of its work, answers how it ended. */
async function runAndSignal(signal: NodeJS.Signals, afterMs?: number, args: string[] = []): Promise<CliRun> {
  const { child, ended } = startCli([...args, image]);
  await new Promise((resolve) => child.stderr!.once('data', resolve));
  const work = wholeRunMs - startMs;
  await sleep(afterMs ?? random.int(Math.ceil(work)));
  child.kill(signal);
  return ended;
}

test(`killed ${KILLS} times at random (SEED=${SEED}), the image is valid every time, and a last run makes it minimal`, async () => {
  restore();
  let killed = 0;
  let amidst = 0;
  while (killed < KILLS) {
    const { mtimeMs } = fs.statSync(image);
    const { signal, status } = await runAndSignal('SIGKILL');
    if (signal !== null) {
      killed++;
      if (fs.statSync(image).mtimeMs !== mtimeMs) amidst++;
      expectValid(image);
      expect(digests(image)).toEqual(content);
      if (killed % 5 !== 0) continue;
      expect(cli(['--quiet', image])).toMatchObject({ status: 0, stderr: '' });
    } else {
      // It was faster than the signal.
      expect(status).toBe(0);
    }
    expectMinimal(image);
    expect(digests(image)).toEqual(content);
    restore();
  }
  console.log(
    `${killed} kills, ${amidst} of them after the first write; a whole run takes ${Math.round(wholeRunMs)} ms`,
  );
  expect(amidst).toBeGreaterThan(5);
}, 300_000);

describe.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s', (signal, status) => {
  test(`stops a run with status ${status}, keeps the gain, says so, and the next run finishes`, async () => {
    let stopped = 0;
    for (let attempt = 0; stopped < 5 && attempt < 50; attempt++) {
      restore();
      const run = await runAndSignal(signal);
      expectValid(image);
      expect(digests(image)).toEqual(content);
      if (run.signal !== null) {
        // The work was over, and nobody listened any more.
        expectMinimal(image);
      } else if (run.status !== 0) {
        stopped++;
        expect(run).toMatchObject({ status, signal: null });
        expect(run.stdout).toMatch(
          /: interrupted(: .*; the image is valid.*run again.*| before anything was changed)\n$/,
        );
        expect(run.stderr).toContain('stopping at the next barrier');
        expect(run.stderr).not.toMatch(/^ +at /m);
      }
      expect(cli(['--quiet', image]).status).toBe(0);
      expectMinimal(image);
      expect(digests(image)).toEqual(content);
    }
    expect(stopped).toBeGreaterThan(0);
  }, 120_000);

  test('a second time ends a run at once, and the image is valid', async () => {
    let ended = 0;
    for (let attempt = 0; ended < 3 && attempt < 50; attempt++) {
      restore();
      const { child, ended: end } = startCli([image]);
      await new Promise((resolve) => child.stderr!.once('data', resolve));
      await sleep(random.int(Math.ceil((wholeRunMs - startMs) / 2)));
      child.kill(signal);
      await Promise.race([new Promise((resolve) => child.stderr!.once('data', resolve)), end]);
      child.kill(signal);
      const run = await end;
      expectValid(image);
      expect(digests(image)).toEqual(content);
      if (run.signal !== null) {
        ended++;
        expect(run.signal).toBe(signal);
      } else {
        expect([0, status]).toContain(run.status);
      }
    }
    expect(ended).toBeGreaterThan(0);
    expect(cli(['--quiet', image]).status).toBe(0);
    expectMinimal(image);
  }, 120_000);

  test('stops the images that come after, and says so in the document', async () => {
    restore();
    const other = directory.path('other.qcow2');
    fs.copyFileSync(original, other);
    const { child, ended } = startCli(['--json', image, other]);
    await sleep((startMs + wholeRunMs) / 2);
    child.kill(signal);
    const { status: ending, stdout } = await ended;
    expectValid(image);
    expectValid(other);
    if (ending === null || stdout === '') return;
    const document = JSON.parse(stdout) as { exitStatus: number; images: { outcome: string }[] };
    expect(document.exitStatus).toBe(ending);
    expect(document.images).toHaveLength(2);
    if (ending !== 0) {
      expect(ending).toBe(status);
      expect(document.images.some(({ outcome }) => ['not-started', 'interrupted'].includes(outcome))).toBe(
        true,
      );
    }
  });
});
