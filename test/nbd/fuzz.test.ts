/**
 * Streams that no client would send: a server answers or cuts off, keeps its bounds, and serves the others. FUZZ: how
 * many; SEED: to see the same again.
 */
import fs from 'node:fs';
import net from 'node:net';
import { expect, test } from 'vitest';
import { Budget } from '../../src/nbd/budget.js';
import { PIECE_BYTES } from '../../src/nbd/buffer-pool.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CMD, FLAG, OPT, goData, metaData, optionBytes, requestBytes, u32 } from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { connectTo, serveAt } from './served.js';

const SEED = Number(process.env.SEED ?? 1);
const STREAMS = Number(process.env.FUZZ ?? 3000);
const DISK_BYTES = 1 << 20;
const directory = temporaryDirectory();

const EDGES = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, DISK_BYTES, 33 << 20, PIECE_BYTES + 1];

/** A session as a client might have it, with everything in it. */
function session(random: Random): Buffer[] {
  const parts: Buffer[] = [u32(random.chance(0.9) ? 3 : random.int(8))];
  const options = [
    optionBytes(OPT.LIST),
    optionBytes(OPT.STRUCTURED),
    optionBytes(OPT.INFO, goData('', [random.int(5)])),
    optionBytes(OPT.SET_META, metaData('', ['base:allocation'])),
    optionBytes(OPT.LIST_META, metaData('', ['base:', 'x'])),
    optionBytes(OPT.STARTTLS),
    optionBytes(random.int(20), Buffer.from(random.bytes(random.int(100)))),
  ];
  for (let i = random.int(6); i > 0; i--) parts.push(random.pick(options));
  parts.push(random.chance(0.3) ? optionBytes(OPT.EXPORT_NAME) : optionBytes(OPT.GO, goData()));
  for (let i = random.int(12); i > 0; i--) parts.push(anyRequest(random, i));
  if (random.chance(0.5)) parts.push(requestBytes(CMD.DISC, 0));
  return parts;
}

function anyRequest(random: Random, cookie: number): Buffer {
  const command = random.int(9);
  const flags = random.chance(0.3) ? 1 << random.int(6) : random.chance(0.1) ? random.int(65536) : 0;
  const offset = random.chance(0.9) ? random.int(DISK_BYTES) : random.pick(EDGES);
  if (command === CMD.WRITE) {
    const data = random.bytes(random.int(random.chance(0.1) ? 300_000 : 2000));
    return requestBytes(command, cookie, { flags, offset, data });
  }
  const length = random.chance(0.9)
    ? random.int(DISK_BYTES - offset > 0 ? DISK_BYTES - offset : 1)
    : random.pick(EDGES);
  return requestBytes(command, cookie, { flags: flags & ~FLAG.FUA, offset, length });
}

/** Some of it changed, left out, said twice or followed by noise. */
function mutate(parts: Buffer[], random: Random): Buffer {
  const all = [...parts];
  if (random.chance(0.3)) all.splice(random.int(all.length), random.chance(0.5) ? 1 : 0, random.pick(parts));
  const bytes = Buffer.concat(all);
  for (let i = random.int(4); i > 0 && bytes.length > 4; i--) {
    const at = random.int(bytes.length - 4);
    if (random.chance(0.5)) bytes[at] = random.int(256);
    else if (i % 2 === 0) bytes.writeUInt32BE(random.pick(EDGES), at);
    else bytes[at]! ^= 1 << random.int(8);
  }
  if (random.chance(0.2)) return bytes.subarray(0, random.int(bytes.length));
  return random.chance(0.1) ? Buffer.concat([bytes, random.bytes(random.int(200))]) : bytes;
}

function* chunksOf(bytes: Buffer, random: Random): Generator<Buffer> {
  const most = random.pick([1 << 20, 5000, 64]);
  for (let at = 0; at < bytes.length;) {
    const end = at + random.between(1, most);
    yield bytes.subarray(at, end);
    at = end;
  }
}

test(`${STREAMS} streams, each to its end (SEED=${SEED})`, async () => {
  const random = new Random(SEED);
  const budget = new Budget(4 * PIECE_BYTES, PIECE_BYTES);
  const kinds = { ended: 0, cut: 0 };
  for (let n = 0; n < STREAMS; n++) {
    const disk = new MemoryDisk(DISK_BYTES, random.chance(0.1));
    if (random.chance(0.5)) disk.bytes.fill(7);
    const { client, ended, failures } = connectTo(disk, { budget });
    for (const chunk of chunksOf(mutate(session(random), random), random)) client.send(chunk);
    if (random.chance(0.1)) client.stream.destroy();
    else client.stream.end();
    const problem = await ended;
    kinds[problem === null ? 'ended' : 'cut']++;
    expect({ n, failures }).toEqual({ n, failures: [] });
    // What failed has left nothing behind either.
    while (disk.atWork > 0) await new Promise(setImmediate);
  }
  await new Promise(setImmediate);
  expect([budget.freeBytes, budget.heldBytes]).toEqual([4 * PIECE_BYTES, 0]);
  console.log(kinds);
  expect(Math.min(kinds.ended, kinds.cut)).toBeGreaterThan(STREAMS / 10);
});

test('many of them at a time on a real socket, while another client is served and memory stays bounded', async () => {
  const random = new Random(SEED + 1);
  const disk = new MemoryDisk(DISK_BYTES);
  const path = directory.path('fuzz.sock');
  const { server, failures, connect } = await serveAt(path, disk);
  const good = await connect().begin();
  const before = process.memoryUsage();
  let served = 0;
  for (let batch = 0; batch < 25; batch++) {
    const streams = Array.from({ length: 20 }, () => {
      const stream = net.connect({ path });
      stream.on('error', () => undefined);
      // Half of them take no answers.
      if (random.chance(0.5)) stream.resume();
      for (const chunk of chunksOf(mutate(session(random), random), random)) stream.write(chunk);
      return stream;
    });
    for (let i = 0; i < 20; i++) {
      const answer = await good.ask(CMD.READ, {
        offset: random.int(1000),
        length: random.between(1, 400_000),
      });
      expect(answer.error).toBe(0);
      served++;
    }
    for (const stream of streams) stream.destroy();
    while (server.traffic.clients > 1) await new Promise((resolve) => setTimeout(resolve, 1));
    const data = random.bytes(100);
    expect((await good.ask(CMD.WRITE, { offset: 50, data })).error).toBe(0);
    expect((await good.ask(CMD.READ, { offset: 50, length: 100 })).data).toEqual(Buffer.from(data));
  }
  expect(failures).toEqual([]);
  expect(served).toBe(500);
  expect([server.budget.freeBytes, server.budget.heldBytes]).toEqual([24 << 20, 0]);
  const after = process.memoryUsage();
  expect((after.arrayBuffers - before.arrayBuffers) / 2 ** 20).toBeLessThan(64);
  await server.stop();
  expect(fs.existsSync(path)).toBe(false);
});
