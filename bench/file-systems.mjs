/** File systems of their own to measure on: made in a file, mounted by a loop device, gone afterwards. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { isInstalled, run } from './host.mjs';

const KINDS = {
  ext4: { mkfs: ['mkfs.ext4', '-q', '-F'], debian: 'e2fsprogs' },
  xfs: { mkfs: ['mkfs.xfs', '-q', '-f'], debian: 'xfsprogs' },
  btrfs: { mkfs: ['mkfs.btrfs', '-q', '-f'], debian: 'btrfs-progs' },
};

export const FILE_SYSTEM_NAMES = Object.keys(KINDS);

/** Journals, and what they allocate ahead; XFS and btrfs refuse to be much smaller. */
const OVERHEAD_BYTES = 2 ** 30;

export function loopFileBytes(neededBytes) {
  return Math.ceil(1.1 * neededBytes) + OVERHEAD_BYTES;
}

/** What stands in the way of these, one line each. */
export function whatIsMissing(kinds) {
  if (kinds.length === 0) return [];
  const missing = [];
  if (process.platform !== 'linux') missing.push('--file-systems: loop mounts are for Linux');
  else if (process.getuid() !== 0) missing.push('--file-systems: only root may mount');
  for (const kind of kinds) {
    const { mkfs, debian } = KINDS[kind];
    if (!isInstalled(mkfs[0], ['-V']))
      missing.push(`${mkfs[0]} is missing; on Debian: apt-get install ${debian}`);
  }
  return missing;
}

/** `work` with a directory of that file system, which is unmounted and removed whatever happens. */
export async function withFileSystem(kind, dir, neededBytes, work) {
  const place = fs.mkdtempSync(path.join(dir, `qcow-compact-bench-${kind}-`));
  const file = path.join(place, 'file-system');
  const point = path.join(place, 'mnt');
  try {
    fs.mkdirSync(point);
    fs.writeFileSync(file, '');
    fs.truncateSync(file, loopFileBytes(neededBytes));
    const [mkfs, ...args] = KINDS[kind].mkfs;
    await run(mkfs, [...args, file]);
    await run('mount', ['-t', kind, '-o', 'loop', file, point]);
    await work(point);
  } finally {
    unmount(point);
    fs.rmSync(place, { recursive: true });
  }
}

/** In a session of its own, which no Ctrl-C reaches; lazily where something still has a file open. */
function unmount(point) {
  // Also where an interrupt came while it was being mounted: then there may be something or nothing.
  const call = (...args) => spawnSync('umount', [...args, point], { stdio: 'ignore', detached: true }).status;
  if (fs.statSync(point, { throwIfNoEntry: false }) === undefined) return;
  const isMounted = () => fs.statSync(point).dev !== fs.statSync(path.dirname(point)).dev;
  if (isMounted() && call() !== 0) call('-l');
  if (isMounted()) throw new Error(`cannot unmount ${point}`);
}
