/** One user at a time: against a live qemu-nbd and qemu-io, and against ourselves, both ways. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { openImageFile } from '../../src/device/open-image.js';
import { EXIT_STATUS, QcowError, check, compact, eraseJunk, plan } from '../../src/index.js';
import { qemuImg, requireQemu } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, startCli } from './cli.js';
import { digests, expectMinimal, fileState, makeHoley } from './images.js';

const directory = temporaryDirectory();
const image = directory.path('image.qcow2');
const LIBRARY = fileURLToPath(new URL('../../dist/index.js', import.meta.url));

beforeEach(() => {
  requireQemu();
  fs.rmSync(image, { force: true });
  makeHoley(image);
});

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill();
  await exited;
}

function startProgram(program: string, args: string[]): ChildProcess {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  child.once('error', (error) => {
    throw new Error(`${program} did not start: install qemu-utils`, { cause: error });
  });
  onTestFinished(() => end(child));
  return child;
}

/** Serves `target`; it holds its locks when the socket is there. */
async function nbd(target: string, ...options: string[]): Promise<ChildProcess> {
  const socket = directory.path(`nbd-${String(performance.now())}`);
  const child = startProgram('qemu-nbd', ['-f', 'qcow2', '-t', '-k', socket, ...options, target]);
  for (let tries = 0; !fs.existsSync(socket); tries++) {
    if (tries > 500 || child.exitCode !== null) throw new Error('qemu-nbd does not serve');
    await sleep(20);
  }
  return child;
}

/** Has `target` open once its prompt is there. */
async function io(target: string, ...options: string[]): Promise<ChildProcess> {
  const child = startProgram('qemu-io', [...options, target]);
  await once(child.stdout!, 'data');
  return child;
}

/** No command may do anything but say so. */
function expectInUse(target: string): void {
  const state = fileState(target);
  for (const options of [[], ['--erase-only'], ['--keep-erased', '9'], ['--dry-run'], ['--check']]) {
    const run = cli(['--quiet', ...options, target]);
    expect({ options, ...run }).toMatchObject({
      ...{ options, status: options.includes('--check') ? 1 : EXIT_STATUS.IN_USE, stdout: '' },
    });
    expect(run.stderr).toMatch(/^qcow-compact: [^\n]*in use by another process[^\n]*\n$/);
  }
  expect(fileState(target)).toEqual(state);
}

describe('an image that QEMU has open', () => {
  test.each([
    ['qemu-nbd', nbd, []],
    ['qemu-nbd, read-only', nbd, ['-r']],
    ['qemu-nbd, shared by several clients', nbd, ['-e', '4']],
    ['qemu-io', io, []],
    ['qemu-io, read-only', io, ['-r']],
  ] as const)('by %s is refused, and taken when that has gone', async (_name, start, options) => {
    const child = await start(image, ...options);
    expectInUse(image);
    await end(child);
    expect(cli(['--quiet', image]).status).toBe(0);
    expectMinimal(image);
  });

  test('as the backing file of a running overlay is refused, and so is the overlay; both are taken later', async () => {
    const overlay = directory.path('overlay.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', image, '-F', 'qcow2', overlay);
    const before = digests(overlay);
    const child = await nbd(overlay);
    expectInUse(image);
    expectInUse(overlay);
    await end(child);
    for (const name of [image, overlay]) {
      expect(cli(['--quiet', name]).status).toBe(0);
      expectMinimal(name);
    }
    expect(digests(overlay)).toEqual(before);
  });

  test('does not stop work on others', async () => {
    const other = makeHoley(directory.path('other.qcow2'));
    await nbd(image);
    expect(cli(['--quiet', image, other]).status).toBe(EXIT_STATUS.IN_USE);
    expectMinimal(other);
  });
});

/** Compacts with the built library in another process, and stays in the first progress event of `phase`. */
async function holdInPhase(phase: string): Promise<ChildProcess> {
  const program = `
    import { compact } from ${JSON.stringify(LIBRARY)};
    import fs from 'node:fs';
    let held = false;
    await compact(${JSON.stringify(image)}, { roundBytes: 65536, onProgress(event) {
      if (held || event.phase !== ${JSON.stringify(phase)}) return;
      held = true;
      fs.writeSync(1, 'held');
      fs.readSync(0, Buffer.alloc(1));
    } });
    fs.writeSync(1, 'done');`;
  const child = startProgram(process.execPath, ['--input-type=module', '-e', program]);
  const [first] = (await once(child.stdout!, 'data')) as [Buffer];
  expect(String(first)).toBe('held');
  return child;
}

describe('an image that is being compacted', () => {
  test.each(['walk', 'plan', 'move', 'finish'])('is closed to QEMU and to us: phase %s', async (phase) => {
    const before = digests(image);
    const child = await holdInPhase(phase);
    for (const [program, ...args] of [
      ['qemu-img', 'info', image],
      ['qemu-img', 'check', image],
      ['qemu-img', 'snapshot', '-c', 'a', image],
      ['qemu-io', '-c', 'write 0 64k', image],
      ['qemu-io', '-r', '-c', 'read 0 64k', image],
      ['qemu-nbd', '-f', 'qcow2', '-r', '-k', directory.path('unused'), image],
    ]) {
      const run = spawnSync(program!, args, { encoding: 'utf8', timeout: 20_000, input: '' });
      // qemu-io ends with 0 or 1 when it cannot open, according to its version.
      expect(`${program} ${args.join(' ')}: ${run.stdout}${run.stderr}`).toMatch(
        /Failed to get "?\w+"? ?(\S+ )?lock|Failed to lock/,
      );
    }
    expectInUse(image);
    child.stdin!.end('x');
    const [done] = (await once(child.stdout!, 'data')) as [Buffer];
    expect(String(done)).toBe('done');
    await end(child);
    expectMinimal(image);
    expect(digests(image)).toEqual(before);
    qemuImg('info', image);
  });

  test('by two commands at once: one does it, the other is refused', async () => {
    const before = digests(image);
    const holder = await holdInPhase('move');
    const second = startCli(['--quiet', image]);
    expect(await second.ended).toMatchObject({ status: EXIT_STATUS.IN_USE, stdout: '' });
    holder.stdin!.end('x');
    await once(holder.stdout!, 'data');
    await end(holder);
    expectMinimal(image);

    for (let round = 0; round < 5; round++) {
      makeHoley(image);
      const runs = await Promise.all([
        startCli(['--quiet', image]).ended,
        startCli(['--quiet', image]).ended,
      ]);
      // The second one may as well have come after the first had finished.
      expect([EXIT_STATUS.IN_USE, 0]).toContain(Math.max(...runs.map(({ status }) => status ?? NaN)));
      expect(Math.min(...runs.map(({ status }) => status ?? NaN))).toBe(0);
      expectMinimal(image);
      expect(digests(image)).toEqual(before);
    }
  });

  test('by this very process is refused to every other call, which does not cost it its lock', async () => {
    const { device } = await openImageFile(image, { mode: 'write' });
    for (const call of [compact, eraseJunk, plan, check]) {
      await expect(call(image)).rejects.toMatchObject({ code: 'IN_USE' });
      expect(spawnSync('qemu-img', ['info', image]).status).not.toBe(0);
    }
    await device.close();

    const both = await Promise.allSettled([compact(image), compact(image)]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    const failed = both.find((result) => result.status === 'rejected');
    expect(failed?.reason).toBeInstanceOf(QcowError);
    expectMinimal(image);
  });
});
