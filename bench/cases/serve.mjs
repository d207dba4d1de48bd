/** The image as a disk over NBD, against qemu-nbd: the same client, `qemu-img bench`, and a server of its own for each run. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ended, started, throwIfInterrupted } from '../interrupts.mjs';
import { against, NODE, secondsOf, TOOL } from '../measure.mjs';

const DEPTH = 16;
const START_SECONDS = 20;
const BLOCK = 4096;
const PIECE = 64 * BLOCK;

/** Each in the fraction of the disk that is as irregular as can be, every block once: as good as random. */
const farStep = (sizeBytes) => (Math.floor((sizeBytes / BLOCK) * 0.618) | 1) * BLOCK;
const inOrder = (sizeBytes) => ({ bytes: PIECE, step: PIECE, total: sizeBytes });
const scattered = (sizeBytes) => ({ bytes: BLOCK, step: farStep(sizeBytes), total: sizeBytes / 8 });

/** Bytes of a request, to the next one, and of all. */
const KINDS = {
  'serve read': inOrder,
  'serve write': (sizeBytes) => ({ ...inOrder(sizeBytes), options: ['-w'] }),
  'serve 4k read': scattered,
  'serve 4k write': (sizeBytes) => ({ ...scattered(sizeBytes), options: ['-w'] }),
};

const SERVERS = {
  tool: (image, socket) => [NODE, [TOOL, 'serve', '--quiet', '--socket', socket, image]],
  'qemu-nbd': (image, socket) => [
    'qemu-nbd',
    ['-f', 'qcow2', '--discard=unmap', '--persistent', '-e', '8', '-k', socket, image],
  ],
};

/** One result for each kind of access. */
export async function serve(bench, master, sizeBytes) {
  const results = [];
  for (const [name, kindOf] of Object.entries(KINDS)) {
    const kind = kindOf(sizeBytes);
    const sides = Object.fromEntries(
      Object.keys(SERVERS).map((side) => [side, () => measure(bench, SERVERS[side], kind)]),
    );
    const samples = await bench.alternate(name, sides, { prepare: () => bench.restore(master) });
    results.push({
      case: name,
      seconds: secondsOf(samples.tool),
      peakBytes: Math.max(...samples.tool.map(({ peakBytes }) => peakBytes)),
      rivals: [against('qemu-nbd', samples.tool, samples['qemu-nbd'])],
      mebibytesPerSecond: kind.total / 2 ** 20 / secondsOf(samples.tool),
      samples,
    });
  }
  return results;
}

async function measure(bench, serverOn, { bytes, step, total, options = [] }) {
  const socket = bench.path('serve.sock');
  const [command, args] = serverOn(bench.copy, socket);
  const server = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  started(server);
  const closed = once(server, 'close');
  try {
    await isThere(socket, server);
    const count = Math.max(1, Math.floor(total / bytes));
    const work = ['-c', String(count), '-d', String(DEPTH), '-s', String(bytes), '-S', String(step)];
    const uri = `nbd+unix:///?socket=${socket}`;
    const sample = await bench.timed('qemu-img', ['bench', '-f', 'raw', ...work, ...options, uri]);
    return { ...sample, peakBytes: peakOf(server.pid), cpuSeconds: undefined };
  } finally {
    server.kill('SIGTERM');
    await closed;
    ended(server);
    fs.rmSync(socket, { force: true });
    await bench.checkResult(bench.copy);
  }
}

async function isThere(socket, server) {
  for (let waited = 0; !fs.existsSync(socket); waited += 0.02) {
    throwIfInterrupted();
    if (server.exitCode !== null || waited > START_SECONDS)
      throw new Error(`${server.spawnfile} does not serve`);
    await sleep(20);
  }
}

/** Of a process that still runs, where the host tells. */
function peakOf(pid) {
  const status = `/proc/${pid}/status`;
  if (!fs.existsSync(status)) return NaN;
  return Number(/VmHWM:\s*(\d+)/.exec(fs.readFileSync(status, 'utf8'))?.[1] ?? NaN) * 1024;
}
