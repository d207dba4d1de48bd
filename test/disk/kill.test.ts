/** A real process that writes to a real file, killed at random moments: the image is valid, and what was flushed is there. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { checkImage, qemuImg, qemuIo } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const KILLS = Number(process.env.KILLS ?? 15);
/** Pass it back to see the same writes; the moments are as the machine has it. */
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const LIBRARY = new URL('../../dist/index.js', import.meta.url).href;
const WRITER = fileURLToPath(new URL('killed-writer.mjs', import.meta.url));
const SECTOR = 512;
const BLOCK = 4096;

const directory = temporaryDirectory();

/** Versions of a block; 0 for a discard, and for what was never written. */
interface Block {
  /** What was there when all was durable: after a kill each sector may have another. */
  durable: number[];
  /** What was written since, the latest last. */
  later: number[];
}

class Expected {
  readonly blocks = new Map<number, Block>();
  version = 1;

  /** Takes what the writer said before it was killed; a line that is cut off is of what it had not begun. */
  take(lines: string): void {
    for (const line of lines.split('\n').slice(0, -1)) {
      const [what, number, version] = line.split(' ');
      if (what === 'F') {
        for (const block of this.blocks.values()) {
          if (block.later.length > 0) block.durable = block.later.slice(-1);
          block.later = [];
        }
        continue;
      }
      const block = this.blocks.get(Number(number)) ?? { durable: [0], later: [] };
      block.later.push(what === 'D' ? 0 : Number(version));
      this.blocks.set(Number(number), block);
      this.version = Math.max(this.version, Number(version) + 1);
    }
  }

  /** Says what it cannot be after the kill; from then on the disk is what it is. */
  judge(raw: Buffer): string | null {
    for (const [number, block] of this.blocks) {
      const found = new Set<number>();
      for (let at = number * BLOCK; at < (number + 1) * BLOCK; at += SECTOR) {
        const [present, version] = [raw.readUInt32LE(at), raw.readUInt32LE(at + 4)];
        const isWhole = raw.compare(raw, at, at + SECTOR - 8, at + 8, at + SECTOR) === 0;
        const isOurs = present === (version === 0 ? 0 : number);
        const known = [...block.durable, ...block.later];
        if (!isWhole || !isOurs || !known.includes(version)) {
          return `block ${number}, byte ${at}: version ${version} of block ${present}; it may be ${known.join(' ')}`;
        }
        found.add(version);
      }
      block.durable = [...found];
      block.later = [];
    }
    return null;
  }
}

test(`killed ${KILLS} times (SEED=${SEED}), the image is valid and what was flushed is there`, async () => {
  const path = directory.path('killed.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=16k', path, '16M');
  qemuIo(path, ['write -q -P 9 4M 4M', 'write -q -c -P 5 9M 1M']);
  qemuImg('snapshot', '-c', 'a', path);
  // From here on it is all ours: blocks without a version are zeroes.
  qemuIo(path, ['discard -q 0 16M'], ['-d', 'unmap']);
  const random = new Random(SEED);
  const expected = new Expected();
  let amidst = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const args = [WRITER, LIBRARY, path, String(random.int(1e9)), String(expected.version)];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let said = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
    await once(child.stdout, 'data');
    await sleep(random.int(250));
    child.kill('SIGKILL');
    const [status] = (await once(child, 'close')) as [number | null];
    expect(status, said.slice(-200)).toBeNull();
    if (said.includes('F\n')) amidst++;
    expected.take(said);
    const { corruptions, errors } = checkImage(path);
    expect({ corruptions, errors }).toEqual({ corruptions: 0, errors: 0 });
    const raw = `${path}.raw`;
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, raw);
    expect(expected.judge(fs.readFileSync(raw))).toBeNull();
  }
  // A snapshot was beneath all of it.
  const snapshot = `${path}.snapshot`;
  qemuImg('convert', '-l', 'snapshot.name=a', '-f', 'qcow2', '-O', 'raw', path, snapshot);
  const bytes = fs.readFileSync(snapshot);
  expect(bytes.subarray(4 << 20, 8 << 20).every((byte) => byte === 9)).toBe(true);
  expect(bytes.subarray(9 << 20, 10 << 20).every((byte) => byte === 5)).toBe(true);
  console.log(`${KILLS} kills, ${amidst} of them after a flush; ${expected.version} versions`);
  expect(amidst).toBeGreaterThan(KILLS / 3);
}, 240_000);
