/** What the guest is made of: a kernel, its modules and busybox as bring-kernel.sh has unpacked them, programs of this host. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

export interface Parts {
  kernel: string;
  busybox: string;
  /** In an order in which they can be loaded; without those that are built into the kernel. */
  modules: string[];
  /** By their names. */
  programs: Map<string, string>;
}

/** PCI, and the disk as virtio-blk or virtio-scsi has it. */
const MODULES = ['virtio_pci', 'virtio_blk', 'virtio_scsi', 'sd_mod'];

const PROGRAMS = ['mkfs.ext4', 'fsck.ext4'];
// Where they are, also for users who have it not in their path.
const places = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
const cache = process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache');
const folder = process.env.QCOW_COMPACT_GUEST ?? path.join(cache, 'qcow-compact/guest');

/** Why no guest can be booted here, and what to do about it, in one line; null where it can. */
export function missingParts(): string | null {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the guest is for Linux on x86-64';
  if (spawnSync('qemu-system-x86_64', ['--version'], { stdio: 'ignore' }).error !== undefined)
    return 'qemu-system-x86_64 not found: install qemu-system-x86 (Debian, Ubuntu) or qemu-system-x86-core (Fedora)';
  if (findPrograms().size < PROGRAMS.length) return `${PROGRAMS.join(' or ')} not found: install e2fsprogs`;
  if (findKernel() === null || !fs.existsSync(path.join(folder, 'bin/busybox')))
    return `no kernel in ${folder}: type npm run test:all, which brings it (on Debian and Ubuntu)`;
  return null;
}

export function findParts(): Parts {
  const problem = missingParts();
  if (problem !== null) throw new Error(problem);
  return {
    kernel: findKernel()!,
    busybox: path.join(folder, 'bin/busybox'),
    modules: inOrder(MODULES, moduleFiles(path.basename(findKernel()!).replace('vmlinuz-', ''))),
    programs: findPrograms(),
  };
}

function findPrograms(): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of PROGRAMS) {
    const file = places.map((place) => path.join(place, name)).find((candidate) => fs.existsSync(candidate));
    if (file !== undefined) found.set(name, file);
  }
  return found;
}

function findKernel(): string | null {
  const boot = path.join(folder, 'boot');
  const name = fs.existsSync(boot)
    ? fs.readdirSync(boot).find((file) => file.startsWith('vmlinuz-'))
    : undefined;
  return name === undefined ? null : path.join(boot, name);
}

/** By their names as the kernel has them. */
function moduleFiles(version: string): Map<string, string> {
  const root = path.join(folder, 'lib/modules', version);
  const files = new Map<string, string>();
  if (!fs.existsSync(root)) return files;
  for (const file of fs.readdirSync(root, { recursive: true, encoding: 'utf8' })) {
    if (file.endsWith('.ko'))
      files.set(path.basename(file, '.ko').replaceAll('-', '_'), path.join(root, file));
  }
  return files;
}

/** Each behind those that it needs, as its section .modinfo names them. */
function inOrder(names: string[], files: Map<string, string>, order: string[] = []): string[] {
  for (const name of names) {
    const file = files.get(name);
    if (file === undefined || order.includes(file)) continue;
    const needs = /\0depends=([^\0]*)\0/.exec(fs.readFileSync(file, 'latin1'))?.[1] ?? '';
    inOrder(
      needs.split(',').map((need) => need.replaceAll('-', '_')),
      files,
      order,
    );
    order.push(file);
  }
  return order;
}
