/** Images as QEMU leaves them when it is killed amid its writes, with the refcounts that it had still to write. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { qemuImg, requireQemu } from '../support/qemu.js';
import type { Random } from '../support/random.js';

export interface CrashOptions {
  /** Of `qemu-img create`. */
  options: string;
  snapshot: boolean;
}

const DISK_KIB = 16 << 10;

/** What a busy guest does, with a flush now and then. */
function guestCommands(random: Random, count: number, largest: number): string[] {
  return Array.from({ length: count }, (_, at) => {
    const kib = random.between(1, largest);
    const place = `${random.int(DISK_KIB - kib)}k ${kib}k`;
    return random.pick([
      `write -q -P ${(at % 250) + 1} ${place}`,
      `write -q -P ${(at % 250) + 1} ${place}`,
      `write -q -P ${(at % 250) + 1} ${place}`,
      `discard -q ${place}`,
      `write -q -z ${place}`,
      'flush',
    ]);
  });
}

function create(path: string, random: Random, { options, snapshot }: CrashOptions): void {
  requireQemu();
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, path, `${DISK_KIB}k`);
  if (!snapshot) return;
  const before = guestCommands(random, 12, 200).flatMap((command) => ['-c', command]);
  spawnSync('qemu-io', ['-d', 'unmap', ...before, path], { stdio: 'ignore' });
  qemuImg('snapshot', '-c', 'a', path);
}

/** Makes an image at `path` in which QEMU calls abort after `count` commands. */
export function abortedQemu(path: string, random: Random, crash: CrashOptions, count: number): void {
  create(path, random, crash);
  const commands = [...guestCommands(random, count, 200), 'abort'].flatMap((command) => ['-c', command]);
  // A core file is of no use.
  const { signal, stderr } = spawnSync('prlimit', ['--core=0', 'qemu-io', '-d', 'unmap', ...commands, path], {
    encoding: 'utf8',
  });
  if (signal !== 'SIGABRT') throw new Error(`qemu-io did not abort: ${stderr}`);
}

/** Makes an image at `path` in which QEMU is killed after `afterMs` of its writes. */
export async function killedQemu(
  path: string,
  random: Random,
  crash: CrashOptions,
  afterMs: number,
): Promise<void> {
  create(path, random, crash);
  const child = spawn('qemu-io', ['-d', 'unmap', path], { stdio: ['pipe', 'pipe', 'ignore'] });
  const ended = once(child, 'close');
  // It is dead before it has read them all.
  child.stdin.on('error', () => undefined);
  child.stdin.write(`${guestCommands(random, 5000, 60).join('\n')}\n`);
  await once(child.stdout, 'data');
  await sleep(afterMs);
  child.kill('SIGKILL');
  await ended;
}
