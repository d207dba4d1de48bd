/** `status`, `now`, SIGUSR1, and a file that gets shorter while clients use it. */
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { StatusFacts } from '../../src/cli/serve-status.js';
import { CMD, type Client } from '../nbd/client.js';
import { checkImage, qemuImg, requireQemu } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli, startCli } from './cli.js';
import { connect, serving } from './serving.js';

const MIB = 1 << 20;
const CLUSTER = 64 << 10;
const CLEAN = { corruptions: 0, leaks: 0, errors: 0 };
const directory = temporaryDirectory();
const image = directory.path('vm.qcow2');
const socket = directory.path('vm.sock');

beforeAll(requireQemu);

beforeEach(() => {
  for (const path of [image, socket]) fs.rmSync(path, { force: true });
  qemuImg('create', '-q', '-f', 'qcow2', image, '256M');
});

/** 40 MiB from the front; the first 24 of them are discarded. */
async function leaveJunk(client: Client): Promise<Buffer> {
  const data = Buffer.from(new Random(5).bytes(40 * MIB));
  for (let at = 0; at < data.length; at += MIB) {
    await client.ask(CMD.WRITE, { offset: at, data: data.subarray(at, at + MIB) });
  }
  await client.ask(CMD.TRIM, { offset: 0, length: 24 * MIB });
  await client.ask(CMD.FLUSH);
  return data.fill(0, 0, 24 * MIB);
}

async function statusOf(...server: string[]): Promise<StatusFacts> {
  const run = await startCli(['status', '--json', ...server]).ended;
  expect(run).toMatchObject({ status: 0, stderr: '' });
  return JSON.parse(run.stdout) as StatusFacts;
}

describe('now', () => {
  test('makes the file shorter while a client goes on, and says by how much', async () => {
    const { stop } = await serving('--compact-after', '0', '--socket', socket, image);
    const client = await connect(socket);
    const content = await leaveJunk(client);
    const before = await statusOf(socket);
    expect(before).toMatchObject({
      ...{ path: image, sizeBytes: 256 * MIB, readOnly: false, clients: 1, bytesWritten: 40 * MIB },
      image: { junkBytes: 24 * MIB, bytesReclaimed: 0, clustersMoved: 0, failure: null, isCompacting: false },
    });
    expect(before.image!.fileBytes).toBe(fs.statSync(image).size);
    const now = startCli(['now', '--json', socket]);
    let isDone = false;
    void now.ended.then(() => (isDone = true));
    let answers = 0;
    for (; !isDone; answers++) {
      const offset = (24 + (answers % 16)) * MIB;
      const { data, error } = await client.ask(CMD.READ, { offset, length: 4096 });
      expect(error).toBe(0);
      expect(data!.equals(content.subarray(offset, offset + 4096))).toBe(true);
    }
    const run = await now.ended;
    expect(run).toMatchObject({ status: 0, stderr: '' });
    const { status, bytesReclaimed, seconds } = JSON.parse(run.stdout) as {
      status: StatusFacts;
      bytesReclaimed: number;
      seconds: number;
    };
    // What the pool had ready beyond the end goes too.
    expect(bytesReclaimed).toBe(before.image!.fileBytes - status.image!.fileBytes);
    expect(bytesReclaimed).toBeGreaterThanOrEqual(24 * MIB);
    expect(seconds).toBeGreaterThan(0);
    expect(status.image).toMatchObject({ junkBytes: 0, bytesReclaimed, clustersMoved: (16 * MIB) / CLUSTER });
    expect(fs.statSync(image).size).toBe(status.image!.fileBytes);
    expect(answers).toBeGreaterThan(0);
    const { data } = await client.ask(CMD.READ, { offset: 0, length: 32 * MIB });
    expect(data!.equals(content.subarray(0, 32 * MIB))).toBe(true);
    await stop();
    expect(checkImage(image)).toEqual(CLEAN);
  });

  test('in words; a second time there is nothing to do', async () => {
    const { stop } = await serving('--compact-after', '0', '--socket', socket, image);
    const client = await connect(socket);
    await leaveJunk(client);
    const first = cli(['now', socket]);
    expect(first).toMatchObject({ status: 0, stderr: '' });
    expect(first.stdout).toMatch(/^\S+vm\.qcow2: 16\.\d MiB, reclaimed 2\d\.\d MiB in [\d.]+ m?s\n$/);
    expect(cli(['now', socket]).stdout).toMatch(/reclaimed 0 B/);
    expect(cli(['now', '-q', socket]).stdout).toBe('');
    await stop();
  });

  test('of a disk that is only read: refused, and the server goes on', async () => {
    const { stop } = await serving('--read-only', '--socket', socket, image);
    const run = cli(['now', socket]);
    expect(run).toMatchObject({ status: 64, stdout: '' });
    expect(run.stderr).toBe(
      `qcow-compact: the server at ${socket} failed: the disk is open for reading only\n`,
    );
    const asJson = cli(['now', '--json', socket]);
    expect(JSON.parse(asJson.stdout)).toMatchObject({ error: { code: 'USAGE', exitStatus: 64 } });
    expect(await statusOf(socket)).toMatchObject({ readOnly: true, image: null });
    await stop();
  });

  test('the server is asked to end meanwhile: it ends in time, with a valid image', async () => {
    const server = await serving(
      ...['--compact-after', '0', '--background-rate', '1M'],
      ...['--socket', socket, image],
    );
    const client = await connect(socket);
    const content = await leaveJunk(client);
    const now = startCli(['now', socket]);
    let isDone = false;
    void now.ended.then(() => (isDone = true));
    // As long as somebody is at work it takes 16 s.
    const reading = (async () => {
      while (!isDone) await client.ask(CMD.READ, { length: 512 });
    })().catch(() => undefined);
    while (!(await statusOf(socket)).image!.isCompacting) await sleep(20);
    expect(await server.stop()).toMatchObject({ status: 0, stderr: '' });
    expect(await now.ended).toMatchObject({ status: 12 });
    await reading;
    expect(checkImage(image)).toEqual(CLEAN);
    const raw = directory.path('raw');
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
    expect(fs.readFileSync(raw).subarray(0, content.length).equals(content)).toBe(true);
  });
});

describe('on its own', () => {
  test('above --compact-after it compacts, and keeps what --keep-erased says', async () => {
    const { stop } = await serving(
      ...['--keep-erased', '10', '--compact-after', '8M', '--socket', socket, image],
    );
    const client = await connect(socket);
    await leaveJunk(client);
    const goal = 18 * MIB;
    for (let tries = 0; fs.statSync(image).size > goal; tries++) {
      if (tries > 400) throw new Error(JSON.stringify(await statusOf(socket)));
      await sleep(50);
    }
    const { image: status } = await statusOf(socket);
    expect(status!.junkBytes).toBe(0);
    expect(status!.availableBytes + status!.erasedBytes).toBe(10 * CLUSTER);
    await stop();
    expect(checkImage(image)).toEqual(CLEAN);
  });
});

describe('SIGUSR1', () => {
  test('tells the status, in the log of --json too, and the server goes on', async () => {
    const server = await serving('--socket', socket, image);
    const client = await connect(socket);
    await client.ask(CMD.WRITE, { data: new Uint8Array(512).fill(1) });
    server.kill('SIGUSR1');
    while (!server.events.some(({ event }) => event === 'status')) await sleep(20);
    const told = server.events.find(({ event }) => event === 'status')!;
    expect(told).toMatchObject({ path: image, clients: 1, requests: 1, bytesWritten: 512 });
    expect(told.image).toMatchObject({ bytesReclaimed: 0, failure: null });
    expect((await client.ask(CMD.FLUSH)).error).toBe(0);
    expect(await server.stop()).toMatchObject({ status: 0, stderr: '' });

    const { child, ended } = startCli(['serve', '-q', '--socket', socket, image]);
    let output = '';
    child.stdout!.on('data', (text) => (output += String(text)));
    while (!fs.existsSync(socket)) await sleep(20);
    child.kill('SIGUSR1');
    while (!output.includes('clients')) await sleep(20);
    child.kill('SIGTERM');
    expect(await ended).toMatchObject({ status: 0, stderr: '' });
    expect(output).toMatch(/^\S+vm\.qcow2: serving 256\.0 MiB\n {2}file {7}\d.*\n {2}junk /);
  });
});

describe('a port', () => {
  test('answers by the URI that the server tells', async () => {
    const { uri, stop } = await serving('--port', '0', image);
    expect(await statusOf(uri)).toMatchObject({ sizeBytes: 256 * MIB, clients: 0 });
    await stop();
    expect(cli(['status', uri])).toMatchObject({ status: 12, stdout: '' });
  });
});
