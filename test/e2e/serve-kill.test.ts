/**
 * A server killed at random moments while several clients write, every other time while it compacts too: the image is valid,
 * and what a flush of any of them has covered is there, whoever had written it. KILLS: how often; SEED: the same writes, at moments as the machine has it.
 */
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { askServer } from '../../src/nbd/control-client.js';
import { type Client, CMD, Gone } from '../nbd/client.js';
import { checkImage, qemuImg } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { connect, serving } from './serving.js';

const KILLS = Number(process.env.KILLS ?? 6);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const BLOCK = 4096;
const SECTOR = 512;
const BLOCKS = 2048;
const CLIENTS = 3;
const directory = temporaryDirectory();

/** Versions of a block: what a flush has covered, and what was written later; 0 for zeroes. */
interface Block {
  durable: number[];
  later: number[];
  /** Of `later`, so many from its beginning. */
  acknowledged: number;
  /** That were in `later` before. */
  covered: number;
}

const blocks: Block[] = Array.from({ length: BLOCKS }, () => ({
  ...{ durable: [0], later: [] },
  ...{ acknowledged: 0, covered: 0 },
}));
let version = 1;
let flushes = 0;
let bytesReclaimed = 0;

function content(block: number, ofVersion: number): Uint8Array {
  const words = new Uint32Array(BLOCK / 4);
  if (ofVersion > 0) for (let i = 0; i < words.length; i += 2) words.set([block, ofVersion], i);
  return new Uint8Array(words.buffer);
}

/** Writes to blocks of its own; a flush is for those of all. Until the server has gone. */
async function writeOn(client: Client, nth: number, random: Random): Promise<void> {
  try {
    for (;;) {
      const batch = new Set(
        Array.from({ length: 10 }, () => random.int(BLOCKS / CLIENTS - 1) * CLIENTS + nth),
      );
      const sent = new Map<bigint, { block: number; written: number }>();
      for (const block of batch) {
        const written = random.chance(0.2) ? 0 : version++;
        blocks[block]!.later.push(written);
        const fields = { offset: block * BLOCK, length: BLOCK };
        const cookie =
          written === 0
            ? client.request(CMD.TRIM, fields)
            : client.request(CMD.WRITE, { ...fields, data: content(block, written) });
        sent.set(cookie, { block, written });
      }
      while (sent.size > 0) {
        const { cookie, error } = await client.answer();
        if (error !== 0) throw new Error(`error ${error}`);
        const { block } = sent.get(cookie)!;
        blocks[block]!.acknowledged = blocks[block]!.later.length;
        sent.delete(cookie);
      }
      if (random.chance(0.3)) await flush(client);
    }
  } catch (error) {
    if (!(error instanceof Gone)) throw error;
  }
}

async function flush(client: Client): Promise<void> {
  const covered = blocks.map((block) => block.covered + block.acknowledged);
  const { error } = await client.ask(CMD.FLUSH);
  if (error !== 0) throw new Error(`error ${error}`);
  flushes++;
  for (const [i, block] of blocks.entries()) {
    // Another client's flush may have covered them meanwhile.
    const count = covered[i]! - block.covered;
    if (count <= 0) continue;
    block.durable = [block.later[count - 1]!];
    block.later.splice(0, count);
    block.acknowledged -= count;
    block.covered += count;
  }
}

/** Again and again, until the server has gone. */
async function compactOn(path: string): Promise<void> {
  for (;;) {
    try {
      const { facts } = await askServer({ path }, path, 'now', () => undefined);
      bytesReclaimed += facts!.bytesReclaimed as number;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'NO_SERVER')) throw error;
      return;
    }
  }
}

/** What the disk cannot be; afterwards it is what it is. */
function judge(raw: Buffer): string[] {
  const wrong: string[] = [];
  for (const [number, block] of blocks.entries()) {
    const known = new Set([...block.durable, ...block.later]);
    const found = new Set<number>();
    for (let at = number * BLOCK; at < (number + 1) * BLOCK; at += SECTOR) {
      const there = raw.readUInt32LE(at + 4);
      const isWhole = raw.subarray(at, at + SECTOR).equals(content(number, there).subarray(0, SECTOR));
      if (!isWhole || !known.has(there))
        wrong.push(`block ${number}: ${there}, not one of ${[...known].join(' ')}`);
      found.add(there);
    }
    Object.assign(block, { durable: [...found], later: [], acknowledged: 0, covered: 0 });
  }
  return wrong;
}

test(`killed ${KILLS} times (SEED=${SEED})`, { timeout: 120_000 }, async () => {
  const image = directory.path('killed.qcow2');
  const socket = directory.path('killed.sock');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=16k', image, String(BLOCKS * BLOCK));
  const random = new Random(SEED);
  for (let kill = 0; kill < KILLS; kill++) {
    const server = await serving('--socket', socket, image);
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => connect(socket)));
    const done = clients.map((client, nth) => writeOn(client, nth, new Random(random.uint32())));
    if (kill % 2 === 1) done.push(compactOn(socket));
    await sleep(20 + random.int(300));
    server.kill('SIGKILL');
    await Promise.all(done);
    await server.ended;
    const { corruptions, errors } = checkImage(image);
    expect({ corruptions, errors }).toEqual({ corruptions: 0, errors: 0 });
    const raw = directory.path('killed.raw');
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
    expect(judge(fs.readFileSync(raw))).toEqual([]);
  }
  console.log(`${KILLS} kills, ${flushes} flushes, ${version} versions, ${bytesReclaimed} bytes reclaimed`);
  expect(flushes).toBeGreaterThan(KILLS);
  expect(bytesReclaimed).toBeGreaterThan(0);
});
