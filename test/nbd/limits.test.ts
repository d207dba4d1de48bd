/** Clients that are slow, stop or ask for too much: they wait for themselves, nobody waits for them. */
import { once } from 'node:events';
import net from 'node:net';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Budget } from '../../src/nbd/budget.js';
import { PIECE_BYTES } from '../../src/nbd/buffer-pool.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CMD, Client, Gone, OPT, optionBytes, requestBytes } from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { connectTo, serveAt } from './served.js';

const MIB = 1 << 20;
const SHARED = 24 * MIB;
const directory = temporaryDirectory();
let sockets = 0;
const socketPath = (): string => directory.path(`${sockets++}.sock`);

function filled(sizeBytes: number): MemoryDisk {
  const disk = new MemoryDisk(sizeBytes);
  disk.bytes.set(new Random(5).bytes(sizeBytes));
  return disk;
}

/** Of the disk, so far. */
function bytesRead(disk: MemoryDisk): number {
  return disk.log
    .filter((line) => line.startsWith('read'))
    .reduce((sum, line) => sum + Number(line.split('+')[1]), 0);
}

async function settled(figure: () => number): Promise<number> {
  for (let last = -1; last !== figure();) {
    last = figure();
    await sleep(60);
    // The server is in this process: it may have had no turn meanwhile.
    for (let turn = 0; turn < 50; turn++) await nextTurn();
  }
  return figure();
}

/** That the server, and the kernel for it, has not taken. */
function unsentBytes({ stream }: Client): number {
  return stream.writableLength;
}

/** Asks for much and takes nothing. */
async function stalledReader(path: string): Promise<net.Socket> {
  const stream = net.connect({ path });
  const client = new Client(stream);
  await client.begin();
  stream.pause();
  for (let i = 0; i < 20; i++) client.send(requestBytes(CMD.READ, i, { length: 4 * MIB }));
  return stream;
}

describe('a client that takes no answers', () => {
  test('holds a bounded part of memory, and others are served; later it gets all', async () => {
    const disk = filled(4 * MIB);
    const path = socketPath();
    const { server, connect } = await serveAt(path, disk);
    const stream = net.connect({ path });
    const slow = new Client(stream);
    await slow.begin();
    stream.pause();
    const wanted = Array.from({ length: 30 }, () => slow.request(CMD.READ, { length: 4 * MIB }));
    // Its budget, and what the kernel has taken.
    expect(await settled(() => bytesRead(disk))).toBeLessThan(SHARED + 2 * MIB);
    expect(server.budget.freeBytes).toBeLessThan(PIECE_BYTES);

    const other = await connect().begin();
    for (let i = 0; i < 50; i++)
      expect((await other.ask(CMD.READ, { offset: i, length: 100_000 })).error).toBe(0);

    stream.resume();
    for (const cookie of wanted) {
      const answer = await slow.answer();
      expect(wanted).toContain(cookie);
      expect(Buffer.compare(answer.data!, disk.bytes)).toBe(0);
    }
    expect(await settled(() => server.budget.freeBytes)).toBe(SHARED);
  });

  test('is one of many: each holds no more than its floor, and one more is served', async () => {
    const disk = filled(4 * MIB);
    const path = socketPath();
    const { server, connect } = await serveAt(path, disk);
    const stalled = await Promise.all(Array.from({ length: 40 }, () => stalledReader(path)));
    const read = await settled(() => bytesRead(disk));
    expect(read).toBeLessThan(SHARED + 40 * (PIECE_BYTES + MIB));
    const other = await connect().begin();
    for (let i = 0; i < 20; i++) {
      const data = new Uint8Array(100_000).fill(i);
      expect((await other.ask(CMD.WRITE, { offset: i, data })).error).toBe(0);
      const answer = await other.ask(CMD.READ, { offset: i, length: 100_000 });
      expect(Buffer.compare(answer.data!, data)).toBe(0);
    }
    for (const stream of stalled) stream.destroy();
    expect(await settled(() => server.budget.freeBytes)).toBe(SHARED);
    expect(await settled(() => server.traffic.clients)).toBe(1);
  });
});

describe('short answers that nobody takes', () => {
  const count = 400_000;
  test.each([
    ['of options', optionBytes(OPT.LIST), false],
    ['of options that are none', optionBytes(99), false],
    ['of writes of nothing', requestBytes(CMD.WRITE, 1), true],
    ['of flushes', requestBytes(CMD.FLUSH, 1), true],
    ['of refusals', requestBytes(99, 1), true],
    ['of reads', requestBytes(CMD.READ, 1, { length: 1 }), true],
    ['of block status', requestBytes(CMD.BLOCK_STATUS, 1, { length: MIB }), true],
  ])('%s: the rest stays with the client', async (_, bytes, isBegun) => {
    const disk = new MemoryDisk(MIB);
    const path = socketPath();
    const { connect } = await serveAt(path, disk, { served: { name: 'x'.repeat(4000), disk } });
    const client = connect();
    await (isBegun ? client.begin() : client.greet());
    client.stream.pause();
    const part = Buffer.concat(Array.from({ length: count / 100 }, () => bytes));
    for (let i = 0; i < 100; i++) client.send(part);
    const left = await settled(() => unsentBytes(client));
    expect(left).toBeGreaterThan(0.5 * count * bytes.length);
    client.stream.destroy();
  });
});

test('long answers of block status that nobody takes are not even made', async () => {
  // Every other page is zero: as many extents as a reply may have.
  const disk = new MemoryDisk(16 * MIB);
  for (let at = 0; at < disk.sizeBytes; at += 8192) disk.bytes[at] = 1;
  const { client } = connectTo(disk);
  await client.begin();
  client.stream.pause();
  const cookies = Array.from({ length: 100 }, () =>
    client.request(CMD.BLOCK_STATUS, { length: disk.sizeBytes }),
  );
  // 32 KiB each.
  expect(await settled(() => disk.log.length)).toBeLessThan(20);
  client.stream.resume();
  for (const cookie of cookies) expect(await client.answer()).toMatchObject({ cookie, error: 0 });
  expect(disk.log).toHaveLength(100);
});

test('nothing more is read for a client that has gone while its request waited for room', async () => {
  const disk = filled(4 * MIB);
  const budget = new Budget(0, PIECE_BYTES);
  const { client, connection, ended } = connectTo(disk, { budget });
  await client.begin();
  let goOn: () => void = () => undefined;
  disk.before = () => new Promise((resolve) => (goOn = resolve));
  client.request(CMD.READ, { length: 4 * MIB });
  while (disk.atWork === 0) await sleep(1);
  connection.cut();
  disk.before = () => undefined;
  goOn();
  await ended;
  // The piece that had its room.
  expect(bytesRead(disk)).toBe(PIECE_BYTES);
  expect(budget.heldBytes).toBe(0);
});

test('a client that stops amidst its data holds a piece, and nobody else', async () => {
  const disk = filled(4 * MIB);
  const path = socketPath();
  const { server, connect } = await serveAt(path, disk);
  const stalled = await Promise.all(
    Array.from({ length: 10 }, async () => {
      const client = await connect().begin();
      client.send(requestBytes(CMD.WRITE, 1, { length: 4 * MIB }), new Uint8Array(PIECE_BYTES - 1));
      return client;
    }),
  );
  const other = await connect().begin();
  expect((await other.ask(CMD.WRITE, { data: new Uint8Array(4 * MIB).fill(3) })).error).toBe(0);
  expect(disk.bytes.every((byte) => byte === 3)).toBe(true);
  expect(server.budget.freeBytes).toBe(SHARED);
  for (const client of stalled) client.stream.destroy();
});

test('of one client no more than 128 requests are under way, and the rest stays unread', async () => {
  const disk = filled(MIB);
  const { connect } = await serveAt(socketPath(), disk);
  const client = await connect().begin({ structured: false });
  let goOn: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (goOn = resolve));
  disk.before = () => held;
  const count = 40_000;
  for (let i = 0; i < count; i++) client.request(CMD.READ, { offset: i % 1000, length: 1 });
  while (disk.atWork < 128) await sleep(1);
  expect(await settled(() => disk.atWork)).toBe(128);
  // 1.1 MB were sent, of which the server has read a part.
  expect(client.stream.writableLength).toBeGreaterThan(400_000);
  goOn();
  for (let i = 0; i < count; i++) expect((await client.answer()).error).toBe(0);
  expect(disk.mostAtWork).toBe(128);
});

test('a request counts for the buffer that it has, and not for what it asks', async () => {
  const disk = filled(MIB);
  const { server, connect } = await serveAt(socketPath(), disk);
  const client = await connect().begin();
  let goOn: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (goOn = resolve));
  disk.before = () => held;
  client.request(CMD.READ, { length: 1 });
  client.request(CMD.WRITE, { data: new Uint8Array(5000) });
  while (disk.atWork < 2) await sleep(1);
  expect(server.budget.heldBytes).toBe(4096 + 16_384);
  goOn();
  for (let i = 0; i < 2; i++) expect((await client.answer()).error).toBe(0);
  expect(await settled(() => server.budget.heldBytes)).toBe(0);
});

test('data that the disk does not take yet stay with the client', async () => {
  const disk = new MemoryDisk(MIB);
  const { server, connect } = await serveAt(socketPath(), disk);
  const client = await connect().begin();
  let goOn: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (goOn = resolve));
  disk.before = () => held;
  for (let i = 0; i < 80; i++) client.request(CMD.WRITE, { data: new Uint8Array(MIB) });
  expect(await settled(() => client.stream.writableLength)).toBeGreaterThan((80 - 26) * MIB);
  expect(server.budget.freeBytes).toBeLessThan(PIECE_BYTES);
  goOn();
  for (let i = 0; i < 80; i++) expect((await client.answer()).error).toBe(0);
  expect(await settled(() => server.budget.freeBytes)).toBe(SHARED);
});

test('more clients than there is room for are turned away, until one goes', async () => {
  const { server, connect } = await serveAt(socketPath(), new MemoryDisk(512), { mostClients: 2 });
  const first = await connect().begin();
  const second = await connect().begin();
  await expect(connect().begin()).rejects.toThrow('GO was refused');
  const old = connect();
  await old.greet();
  old.send(optionBytes(OPT.EXPORT_NAME));
  await expect(old.take(1)).rejects.toThrow(Gone);
  first.request(CMD.DISC);
  await settled(() => server.traffic.clients);
  const third = await connect().begin();
  for (const client of [second, third]) expect((await client.ask(CMD.FLUSH)).error).toBe(0);
});

test('who says nothing keeps nobody out, and is cut off for those who come', async () => {
  const { server, connect } = await serveAt(socketPath(), new MemoryDisk(512));
  const silent = [];
  for (let i = 0; i < 33; i++) {
    silent.push(connect());
    await silent[i]!.greet();
  }
  expect(await silent[0]!.rest()).toHaveLength(0);
  const clients = await Promise.all(Array.from({ length: 20 }, () => connect().begin()));
  for (const client of clients) expect((await client.ask(CMD.FLUSH)).error).toBe(0);
  expect(server.traffic.clients).toBe(20);
  expect((await silent[32]!.option(OPT.LIST)).at(-1)!.type).toBe(1);
});

test('a client that leaves without a flush gets one', async () => {
  const disk = new MemoryDisk(512);
  const { server, connect } = await serveAt(socketPath(), disk);
  const reader = await connect().begin();
  reader.request(CMD.DISC);
  await settled(() => server.traffic.clients);
  expect(disk.log).toEqual([]);
  const writer = await connect().begin();
  await writer.ask(CMD.WRITE, { data: new Uint8Array(9) });
  writer.stream.destroy();
  await settled(() => server.traffic.clients);
  expect(disk.log).toEqual(['write 0+9', 'flush']);
});

test.each([
  ['zeroes', CMD.WRITE_ZEROES, 'writeZeroes 0+512'],
  ['discards', CMD.TRIM, 'discard 0+512'],
])('so does one that leaves %s behind', async (_, command, line) => {
  const disk = new MemoryDisk(512);
  const { server, connect } = await serveAt(socketPath(), disk);
  const client = await connect().begin();
  await client.ask(command, { length: 512 });
  client.request(CMD.DISC);
  await settled(() => server.traffic.clients);
  expect(disk.log).toEqual([line, 'flush']);
});

test('what is written only after another client has gone is flushed with its own', async () => {
  const disk = new MemoryDisk(512);
  const { server, connect } = await serveAt(socketPath(), disk);
  const [writer, other] = [await connect().begin(), await connect().begin()];
  let goOn: () => void = () => undefined;
  disk.before = (operation) =>
    operation === 'write' ? new Promise((resolve) => (goOn = resolve)) : undefined;
  writer.request(CMD.WRITE, { data: new Uint8Array(9) });
  while (disk.atWork === 0) await sleep(1);
  other.request(CMD.DISC);
  await settled(() => server.traffic.clients);
  goOn();
  expect((await writer.answer()).error).toBe(0);
  disk.log.push('answered');
  writer.request(CMD.DISC);
  await settled(() => server.traffic.clients);
  expect(disk.log).toEqual(['write 0+9', 'answered', 'flush']);
});

describe('the end of the server', () => {
  test('answers what is under way on every connection, turns nobody away half-way, and takes nobody any more', async () => {
    const disk = filled(MIB);
    const path = socketPath();
    const { server, connect } = await serveAt(path, disk);
    const clients = await Promise.all([1, 2, 3, 4].map(() => connect().begin()));
    const idle = await connect().begin();
    const negotiating = connect();
    await negotiating.greet();
    disk.before = () => sleep(50);
    for (const client of clients) for (let i = 0; i < 10; i++) client.request(CMD.READ, { length: 1000 });
    while (disk.atWork < 40) await sleep(1);
    for (const client of clients) client.stream.on('end', () => client.stream.end());
    const stopped = server.stop();
    for (const client of clients) for (let i = 0; i < 10; i++) expect((await client.answer()).error).toBe(0);
    expect(await idle.rest()).toHaveLength(0);
    expect(await negotiating.rest()).toHaveLength(0);
    idle.stream.end();
    await stopped;
    const late = net.connect({ path });
    const [error] = (await once(late, 'error')) as [NodeJS.ErrnoException];
    expect(error.code).toBe('ENOENT');
  });

  test('does not wait for ever for a client that takes nothing, or stops amidst its data', async () => {
    const path = socketPath();
    const { server, connect } = await serveAt(path, filled(4 * MIB));
    await stalledReader(path);
    const writer = await connect().begin();
    writer.send(requestBytes(CMD.WRITE, 1, { length: 1000 }), new Uint8Array(10));
    await sleep(20);
    const startedAt = performance.now();
    await server.stop(200);
    expect(performance.now() - startedAt).toBeLessThan(2000);
    expect(server.traffic.clients).toBe(0);
  });
});

test('a budget: floors beside what is shared, those who wait in their order', async () => {
  const budget = new Budget(100, 10);
  const [one, two, three] = [budget.open(), budget.open(), budget.open()];
  expect([one.tryTake(10), budget.freeBytes]).toEqual([true, 100]);
  for (let i = 0; i < 10; i++) expect(one.tryTake(10)).toBe(true);
  expect([one.tryTake(1), budget.freeBytes]).toEqual([false, 0]);
  // Its floor is everybody's own.
  expect([two.tryTake(10), three.tryTake(7), two.tryTake(1), three.tryTake(4)]).toEqual([
    true,
    true,
    false,
    false,
  ]);
  const order: string[] = [];
  void two.take(8).then(() => order.push('two'));
  void three.take(10).then(() => order.push('three'));
  one.give(7);
  await sleep(0);
  // Seven are free, of which the third needs just these.
  expect(order).toEqual(['three']);
  three.give(10);
  await sleep(0);
  expect(order).toEqual(['three']);
  one.give(3);
  await sleep(0);
  expect(order).toEqual(['three', 'two']);
  one.give(100);
  two.give(18);
  three.give(7);
  expect([budget.freeBytes, one.heldBytes, two.heldBytes, three.heldBytes]).toEqual([100, 0, 0, 0]);
});
