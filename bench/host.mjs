/** What the bench needs of the host: children, timed ones too, a cold cache, fresh copies. */
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { ended, started, throwIfInterrupted } from './interrupts.mjs';

const GNU_TIME = '/usr/bin/time';
const DROP_CACHES = '/proc/sys/vm/drop_caches';
const TMPFS_MAGIC = 0x01021994;
const FILE_SYSTEMS = {
  0xef53: 'ext4',
  0x58465342: 'xfs',
  0x9123683e: 'btrfs',
  [TMPFS_MAGIC]: 'tmpfs',
  0x794c7630: 'overlayfs',
  0x2fc12fc1: 'zfs',
};

/** Runs a command that must succeed; its stdout, and the seconds until it ended. */
async function spawned(command, args, { input, statuses = [0] } = {}) {
  throwIfInterrupted();
  const startedAt = process.hrtime.bigint();
  const child = spawn(command, args, { stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'] });
  started(child);
  let seconds = NaN;
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'])
    child[name].setEncoding('utf8').on('data', (text) => (output[name] += text));
  // What has ended early does not read all of its input: its status says what there is to say.
  child.stdin?.on('error', () => undefined).end(input);
  const { status, signal } = await new Promise((resolve, reject) => {
    child.on('error', (error) => reject(new Error(`cannot run ${command}: ${error.message}`)));
    child.on('exit', () => (seconds = Number(process.hrtime.bigint() - startedAt) / 1e9));
    child.on('close', (status, signal) => resolve({ status, signal }));
  }).finally(() => ended(child));
  throwIfInterrupted();
  if (!statuses.includes(status)) {
    const words = [command, ...args].join(' ').slice(0, 500);
    throw new Error(`${words} ended with ${status ?? signal}: ${output.stderr.trim()}`);
  }
  return { stdout: output.stdout, seconds };
}

/** Runs a command that must succeed; its stdout. */
export async function run(command, args, options) {
  return (await spawned(command, args, options)).stdout;
}

export function isInstalled(command, args = ['--version']) {
  const child = spawnSync(command, args, { stdio: 'ignore' });
  return child.error === undefined && child.status === 0;
}

export const hasGnuTime = fs.existsSync(GNU_TIME) && isInstalled(GNU_TIME, ['-v', 'true']);

/**
 * Wall time of a command, and what the kernel counted for it: `peakBytes`, and the bytes that it had written
 * to the file system (null where GNU time is missing; the parent's own figures cover all children at once).
 */
export async function timed(command, args, workDir) {
  const report = path.join(workDir, 'time.txt');
  const [program, ...rest] = hasGnuTime
    ? [GNU_TIME, '-v', '-o', report, command, ...args]
    : [command, ...args];
  const { stdout, seconds } = await spawned(program, rest);
  if (!hasGnuTime) return { seconds, stdout, peakBytes: null, kernelWrittenBytes: null, cpuSeconds: null };
  const text = fs.readFileSync(report, 'utf8');
  const figure = (label) => Number(new RegExp(`${label}: ([\\d.]+)`).exec(text)?.[1] ?? NaN);
  return {
    seconds,
    stdout,
    peakBytes: figure('Maximum resident set size \\(kbytes\\)') * 1024,
    kernelWrittenBytes: figure('File system outputs') * 512,
    cpuSeconds: figure('User time \\(seconds\\)') + figure('System time \\(seconds\\)'),
  };
}

/** By the magic number; ext2 and ext3 have that of ext4. */
export function fileSystemOf(dir) {
  const { type } = fs.statfsSync(dir);
  return FILE_SYSTEMS[type] ?? `0x${type.toString(16)}`;
}

/** Options of the mount that holds `dir`, or '' where findmnt does not say. */
export function mountOptionsOf(dir) {
  const child = spawnSync('findmnt', ['-n', '-o', 'OPTIONS', '-T', dir], { encoding: 'utf8' });
  return child.status === 0 ? child.stdout.trim() : '';
}

export const canDropCaches =
  process.getuid?.() === 0 &&
  (() => {
    try {
      fs.writeFileSync(DROP_CACHES, '1\n');
      return true;
    } catch {
      return false;
    }
  })();

/** Nothing dirty on the file system of `dir`, and nothing of its images cached as far as this user may say so. */
export async function makeCold(dir, warmUp) {
  await run('sync', ['-f', dir]);
  if (canDropCaches) fs.writeFileSync(DROP_CACHES, '3\n');
  else {
    for (const name of fs.readdirSync(dir)) {
      if (!name.endsWith('.qcow2')) continue;
      await run('dd', [`if=${path.join(dir, name)}`, 'iflag=nocache', 'count=0', 'status=none']);
    }
  }
  // The programs themselves are warm on both sides: how fast the host loads them is not the question.
  await warmUp();
}

/** A fresh copy with the same holes, and blocks of its own (so no reflink). */
export async function restore(master, copy) {
  fs.rmSync(copy, { force: true });
  await run('cp', ['--sparse=auto', '--reflink=never', master, copy]);
}
