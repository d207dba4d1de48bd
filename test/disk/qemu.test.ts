/** What QEMU has written is read as QEMU reads it, and the other way round; on real files, with real backing files. */
import fs from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { checkImage, qemuImg, qemuIo, requireQemu } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { Clients } from './clients.js';

const MIB = 1 << 20;
const SEED = Number(process.env.SEED ?? 1);
const directory = temporaryDirectory();

beforeAll(() => requireQemu());

/** As `qemu-img convert` reads the image. */
function readByQemu(path: string): Buffer {
  const raw = `${path}.raw`;
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, raw);
  const bytes = fs.readFileSync(raw);
  fs.rmSync(raw);
  return bytes;
}

async function readByDisk(path: string): Promise<Uint8Array> {
  const disk = await Qcow2Disk.open(path, { readOnly: true });
  const bytes = new Uint8Array(disk.sizeBytes);
  await disk.read(bytes, 0);
  await disk.close();
  return bytes;
}

function create(path: string, options: string, ...rest: string[]): void {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, ...rest);
  expect(fs.existsSync(path)).toBe(true);
}

/** Half of an image, written by QEMU: data, zeroes, holes, compressed clusters, a snapshot beneath some of them. */
function fill(path: string, random: Random, clusterKib = 64): void {
  const place = () => `${random.int(6 * 1024)}k ${random.between(1, 300)}k`;
  const write = () => `write -q -P ${random.between(1, 255)} ${place()}`;
  const changes = () => {
    const what = random.int(6);
    if (what < 3) return write();
    if (what === 3) return `write -q -z ${place()}`;
    if (what === 4) return `write -q -z -u ${place()}`;
    return `discard -q ${place()}`;
  };
  // Only where nothing is yet.
  const compressed = [...Array(Math.floor(4096 / clusterKib)).keys()]
    .filter(() => random.chance(0.2))
    .slice(0, 20);
  qemuIo(
    path,
    compressed.map((at) => `write -q -c -P ${random.between(1, 255)} ${at * clusterKib}k ${clusterKib}k`),
  );
  qemuIo(path, Array.from({ length: 12 }, changes), ['-d', 'unmap']);
  qemuImg('snapshot', '-c', 'a', path);
  qemuIo(path, Array.from({ length: 6 }, changes), ['-d', 'unmap']);
}

const LAYOUTS = {
  'clusters of 64 KiB': 'cluster_size=64k',
  'clusters of 512 bytes': 'cluster_size=512',
  'version 2': 'cluster_size=4k,compat=0.10',
  'clusters of 2 MiB': 'cluster_size=2M',
  'extended L2 entries': 'cluster_size=64k,extended_l2=on',
  'compression by zstd': 'cluster_size=64k,compression_type=zstd',
  'refcounts of 8 bits': 'cluster_size=4k,refcount_bits=8',
} as const;

describe.each(Object.entries(LAYOUTS))('an image with %s', (name, options) => {
  const path = directory.path(`${name.replaceAll(' ', '-')}.qcow2`);

  test('is read as QEMU reads it, written with clients at a time, and read by QEMU', async () => {
    const random = new Random(SEED);
    create(path, options, path, '8M');
    fill(path, random, name.includes('2 MiB') ? 2048 : 64);
    const before = readByQemu(path);
    const snapshot = readSnapshot(path);
    expect(Buffer.compare(await readByDisk(path), before)).toBe(0);

    const disk = await Qcow2Disk.open(path);
    const clients = new Clients(disk, Uint8Array.from(before), SEED, { clients: 4, mostBytes: 300_000 });
    await clients.run(150);
    await disk.close();

    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
    expect(Buffer.compare(readByQemu(path), clients.content)).toBe(0);
    expect(Buffer.compare(readSnapshot(path), snapshot)).toBe(0);
    // And QEMU goes on with it.
    qemuIo(path, ['write -q -P 77 1M 3M', 'read -q -P 77 1M 3M']);
    clients.content.fill(77, MIB, 4 * MIB);
    expect(Buffer.compare(await readByDisk(path), clients.content)).toBe(0);
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
  });
});

function readSnapshot(path: string): Buffer {
  const raw = `${path}.snapshot`;
  qemuImg('convert', '-l', 'snapshot.name=a', '-f', 'qcow2', '-O', 'raw', path, raw);
  const bytes = fs.readFileSync(raw);
  fs.rmSync(raw);
  return bytes;
}

describe('a chain of backing files', () => {
  test('is read to its end, and stays untouched by writes, which copy', async () => {
    const random = new Random(SEED);
    const [raw, middle, top] = ['base.raw', 'middle.qcow2', 'top.qcow2'].map((name) => directory.path(name));
    // Shorter than what is based on it, and not whole sectors.
    fs.writeFileSync(raw!, random.bytes(3 * MIB + 777));
    create(middle!, 'cluster_size=4k,backing_fmt=raw', '-b', 'base.raw', middle!, '6M');
    qemuIo(middle!, ['write -q -P 3 1000k 500k', 'write -q -z 100k 64k', 'write -q -P 9 5M 300k']);
    // Relative to the image that names it, not to where we are.
    create(top!, 'cluster_size=64k,backing_fmt=qcow2', '-b', 'middle.qcow2', top!, '8M');
    qemuIo(top!, ['write -q -P 4 1200k 100k', 'write -q -z 3M 1M']);
    const beneath = [raw!, middle!].map((path) => fs.readFileSync(path));
    const before = readByQemu(top!);
    expect(Buffer.compare(await readByDisk(top!), before)).toBe(0);

    const disk = await Qcow2Disk.open(top!);
    const clients = new Clients(disk, Uint8Array.from(before), SEED, { clients: 4, mostBytes: 300_000 });
    await clients.run(100);
    const status = await disk.blockStatus(0, disk.sizeBytes);
    expect(status.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)).toBe(disk.sizeBytes);
    await disk.close();

    expect(Buffer.compare(readByQemu(top!), clients.content)).toBe(0);
    qemuImg('check', '-q', top!);
    for (const [i, path] of [raw!, middle!].entries()) {
      expect(Buffer.compare(fs.readFileSync(path), beneath[i]!)).toBe(0);
    }
  });
});

test('blockStatus says what QEMU says', async () => {
  const path = directory.path('status.qcow2');
  create(path, 'cluster_size=64k', path, '8M');
  fill(path, new Random(SEED + 5));
  const disk = await Qcow2Disk.open(path, { readOnly: true });
  const status = await disk.blockStatus(0, disk.sizeBytes);
  await disk.close();
  const map = JSON.parse(qemuImg('map', '--output=json', path)) as {
    start: number;
    length: number;
    zero: boolean;
    data: boolean;
  }[];
  for (let at = 0; at < 8 * MIB; at += 4096) {
    const ours = status.find(({ offset, lengthBytes }) => offset <= at && at < offset + lengthBytes)!;
    const theirs = map.find(({ start, length }) => start <= at && at < start + length)!;
    // QEMU also looks for holes of the file, and counts what reads as zeroes as no data, with or without room of its own.
    if (ours.isZero) expect({ at, zero: theirs.zero }).toEqual({ at, zero: true });
    else expect({ at, isAllocated: ours.isAllocated }).toEqual({ at, isAllocated: true });
    if (!ours.isAllocated) expect({ at, data: theirs.data }).toEqual({ at, data: false });
    if (!theirs.zero) expect({ at, isZero: ours.isZero }).toEqual({ at, isZero: false });
  }
});
