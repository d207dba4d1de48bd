/** What the bench needs of the host: timed children, a cold cache, fresh copies. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const GNU_TIME = '/usr/bin/time';
const DROP_CACHES = '/proc/sys/vm/drop_caches';
const TMPFS_MAGIC = 0x01021994;
const FILE_SYSTEMS = {
  0xef53: 'ext2/3/4',
  0x58465342: 'xfs',
  0x9123683e: 'btrfs',
  [TMPFS_MAGIC]: 'tmpfs',
  0x794c7630: 'overlayfs',
  0x2fc12fc1: 'zfs',
};

/** Runs a command that must succeed; its stdout. */
export function run(command, args, { input, statuses = [0] } = {}) {
  const child = spawnSync(command, args, { encoding: 'utf8', input, maxBuffer: 2 ** 28 });
  if (child.error) throw new Error(`cannot run ${command}: ${child.error.message}`);
  if (!statuses.includes(child.status)) {
    throw new Error(
      `${command} ${args.join(' ')} ended with ${child.status ?? child.signal}: ${child.stderr.trim()}`,
    );
  }
  return child.stdout;
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
export function timed(command, args, workDir) {
  const report = path.join(workDir, 'time.txt');
  const argv = hasGnuTime ? [GNU_TIME, '-v', '-o', report, command, ...args] : [command, ...args];
  const startedAt = process.hrtime.bigint();
  const stdout = run(argv[0], argv.slice(1));
  const seconds = Number(process.hrtime.bigint() - startedAt) / 1e9;
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

export function fileSystemOf(dir) {
  const { type } = fs.statfsSync(dir);
  return FILE_SYSTEMS[type] ?? `0x${type.toString(16)}`;
}

/** Options of the mount that holds `dir`, or '' where findmnt does not say. */
export function mountOptionsOf(dir) {
  const child = spawnSync('findmnt', ['-n', '-o', 'OPTIONS', '-T', dir], { encoding: 'utf8' });
  return child.status === 0 ? child.stdout.trim() : '';
}

export function isTmpfs(dir) {
  return fs.statfsSync(dir).type === TMPFS_MAGIC;
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

/** Nothing dirty anywhere on the file system, and nothing of `file` cached as far as this user may say so. */
export function makeCold(file, warmUp) {
  run('sync', ['-f', file]);
  if (canDropCaches) fs.writeFileSync(DROP_CACHES, '3\n');
  else run('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
  // The programs themselves are warm on both sides: how fast the host loads them is not the question.
  warmUp();
}

/** A fresh copy with the same holes, blocks of its own (so no reflink), all of it on the disk. */
export function restore(master, copy) {
  fs.rmSync(copy, { force: true });
  run('cp', ['--sparse=auto', '--reflink=never', master, copy]);
  run('sync', ['-f', copy]);
}
