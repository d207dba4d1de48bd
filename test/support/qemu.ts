/** Runs qemu-img and qemu-io, which judge our images; tests that need them fail without them, never skip. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

export interface QemuCheck {
  readonly corruptions: number;
  readonly leaks: number;
  readonly errors: number;
}

let found = false;

export function requireQemu(): void {
  if (found) {
    return;
  }
  for (const program of ['qemu-img', 'qemu-io', 'qemu-nbd']) {
    if (spawnSync(program, ['--version'], { stdio: 'ignore' }).error !== undefined) {
      throw new Error(
        `${program} not found: install qemu-utils (Debian, Ubuntu), qemu-img (Fedora) or qemu (Homebrew)`,
      );
    }
  }
  found = true;
}

export function qemuImg(...args: string[]): string {
  return run('qemu-img', args);
}

/** Runs each command (`write -P 5 0 64k`) on the image, in order, and flushes. */
export function qemuIo(image: string, commands: readonly string[], options: readonly string[] = []): string {
  const output = run('qemu-io', [...options, ...commands.flatMap((command) => ['-c', command]), image]);
  // qemu-io exits with 0 after a read whose pattern did not match.
  if (output.includes('Pattern verification failed')) {
    throw new Error(`qemu-io ${commands.join('; ')}\n${output}`);
  }
  return output;
}

/** The key of an encrypted image: QEMU does not even check one without it. */
export interface Encryption {
  readonly format: 'luks' | 'aes';
  readonly secret: string;
}

/** Arguments that make a secret known to qemu-img and qemu-io, by the id `key`. */
export function secretObject({ secret }: Encryption): string[] {
  return ['--object', `secret,id=key,data=${secret}`];
}

/**
 * The same for an image of the builder in `path`, whose key or data file never existed: `bytes` are written there
 * without encryption (so that a LUKS header is a leak), and an empty data file is lent to it.
 */
export function checkBuiltImage(path: string, bytes: Uint8Array): QemuCheck {
  const copy = Buffer.from(bytes);
  copy.writeUInt32BE(0, METHOD_AT);
  const header = copy.subarray(0, Math.min(copy.length, 2 ** copy.readUInt32BE(20)));
  const extension = header.indexOf(LUKS_EXTENSION);
  if (extension >= 0) copy.writeUInt32BE(UNKNOWN_EXTENSION, extension);
  writeFileSync(path, copy);
  const hasDataFile = copy.readUInt32BE(4) === 3 && (copy.readUInt32BE(76) & 4) !== 0;
  return checkImage(
    path,
    undefined,
    hasDataFile ? { 'data-file': { driver: 'null-co', size: 2 ** 40 } } : {},
  );
}

const METHOD_AT = 32;
const LUKS_EXTENSION = Buffer.from('0537be7700000010', 'hex');
const UNKNOWN_EXTENSION = 0x7e570000;

/**
 * What `qemu-img check` counts. Throws when it cannot open or read the image at all. `more`: further options of
 * the block device.
 */
export function checkImage(path: string, encryption?: Encryption, more: object = {}): QemuCheck {
  requireQemu();
  // Named like this, the backing file need not exist.
  const options = { driver: 'qcow2', file: { driver: 'file', filename: path }, backing: null };
  const encrypt = encryption && { encrypt: { format: encryption.format, 'key-secret': 'key' } };
  const args = ['check', '--output=json', ...(encryption ? secretObject(encryption) : [])];
  args.push(`json:${JSON.stringify({ ...options, ...encrypt, ...more })}`);
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  // 0 clean, 2 corruptions, 3 leaks; 1 and 63 mean that no check took place.
  if (status !== 0 && status !== 2 && status !== 3) {
    throw new Error(`qemu-img check ${path}: exit ${status}\n${stderr}`);
  }
  const report = JSON.parse(stdout) as { corruptions?: number; leaks?: number; 'check-errors': number };
  return { corruptions: report.corruptions ?? 0, leaks: report.leaks ?? 0, errors: report['check-errors'] };
}

/** `qemu-img check -r all`, whatever it finds; the backing file need not exist. */
export function repairByQemu(path: string): void {
  requireQemu();
  const options = { driver: 'qcow2', file: { driver: 'file', filename: path }, backing: null };
  const args = ['check', '-q', '-r', 'all', `json:${JSON.stringify(options)}`];
  const { status, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (status !== 0) throw new Error(`qemu-img check -r all ${path}: exit ${status}\n${stderr}`);
}

/** Stretches of the guest's disk that the bitmap says are dirty, as QEMU tells a backup program over NBD. */
export async function dirtyRanges(
  image: string,
  bitmap: string,
  { source = ['-f', 'qcow2', image] }: { source?: readonly string[] } = {},
): Promise<{ start: number; end: number }[]> {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-'));
  const socket = join(directory, 'socket');
  const server = spawn('qemu-nbd', ['--read-only', '-k', socket, '-B', bitmap, ...source], { stdio: 'pipe' });
  const ended = new Promise<string>((resolve) => {
    let words = '';
    server.stderr.on('data', (data: Buffer) => (words += data.toString()));
    server.on('error', (error) => resolve(error.message));
    server.on('close', () => resolve(words));
  });
  try {
    while (!existsSync(socket)) {
      const failure = await Promise.race([ended, setTimeout(5, null)]);
      if (failure !== null) {
        throw new Error(`qemu-nbd ${image}: ${failure}`);
      }
    }
    const options = `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:${bitmap}`;
    const map = qemuImg('map', '--output=json', '--image-opts', options);
    // What is dirty is told as not being data.
    return (JSON.parse(map) as { start: number; length: number; data: boolean }[])
      .filter(({ data }) => !data)
      .map(({ start, length }) => ({ start, end: start + length }));
  } finally {
    // It serves one client and ends with it; if none came, now.
    server.kill();
    await ended;
    rmSync(directory, { recursive: true });
  }
}

function run(program: string, args: readonly string[]): string {
  requireQemu();
  try {
    return execFileSync(program, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 1 << 28,
    });
  } catch (error) {
    const { status, stdout, stderr } = error as { status: number | null; stdout: string; stderr: string };
    throw new Error(`${program} ${args.join(' ')}: exit ${status}\n${stdout}${stderr}`, { cause: error });
  }
}
