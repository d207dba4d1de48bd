/**
 * The image as a disk over NBD: against qemu-nbd, and while it is compacted against itself at rest. The client is fio, and each
 * run has a server of its own.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../host.mjs';
import { ended, started, throwIfInterrupted } from '../interrupts.mjs';
import { against, NODE, secondsOf, TOOL } from '../measure.mjs';

const DEPTH = 16;
const START_SECONDS = 20;
const KIB = 1024;
/** Smaller disks are only tried out: each kind goes once over an eighth of them. */
const LEAST_TO_MEASURE = 2 ** 30;
/** Not counted: Node compiles what serves. */
const RAMP_SECONDS = 2;
const RUN_SECONDS = 5;

const KINDS = {
  'serve read': { rw: 'read', bytes: 256 * KIB },
  'serve write': { rw: 'write', bytes: 256 * KIB },
  'serve 4k read': { rw: 'randread', bytes: 4 * KIB },
  'serve 4k write': { rw: 'randwrite', bytes: 4 * KIB },
};

const serveWith = (image, socket) => [
  NODE,
  [TOOL, 'serve', '--quiet', '--compact-after', '0', '--socket', socket, image],
];
const qemuNbd = (image, socket) => [
  'qemu-nbd',
  ['-f', 'qcow2', '--discard=unmap', '--persistent', '-e', '8', '-k', socket, image],
];

/** One result for each kind of access, and one more for each while the image is compacted. */
export async function serve(bench, master, sizeBytes) {
  const results = [];
  for (const [name, kind] of Object.entries(KINDS)) {
    const idle = () => measure(bench, serveWith, { ...kind, sizeBytes });
    const compacting = () => measure(bench, serveWith, { ...kind, sizeBytes, compacts: true });
    const rival = () => measure(bench, qemuNbd, { ...kind, sizeBytes });
    const prepare = () => bench.restore(master);
    const samples = await bench.alternate(name, { tool: idle, 'qemu-nbd': rival, compacting }, { prepare });
    results.push(resultOf(name, samples.tool, against('qemu-nbd', samples.tool, samples['qemu-nbd'])));
    const beside = `${name}, compacting`;
    results.push(resultOf(beside, samples.compacting, against('idle', samples.compacting, samples.tool)));
  }
  return results;
}

function resultOf(name, samples, rival) {
  return {
    case: name,
    seconds: secondsOf(samples),
    peakBytes: Math.max(...samples.map(({ peakBytes }) => peakBytes)),
    rivals: [rival],
    samples,
  };
}

/** `seconds`: that a GiB takes. */
async function measure(bench, serverOn, { rw, bytes, sizeBytes, compacts = false }) {
  const socket = bench.path('serve.sock');
  const [command, args] = serverOn(bench.copy, socket);
  const server = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  started(server);
  const closed = once(server, 'close');
  let compaction = null;
  try {
    await isThere(socket, server);
    if (compacts) compaction = await compactOn(socket);
    const isMeasured = sizeBytes >= LEAST_TO_MEASURE;
    const amount = isMeasured
      ? ['--time_based', `--ramp_time=${RAMP_SECONDS}`, `--runtime=${RUN_SECONDS}`]
      : [`--io_size=${Math.max(bytes, sizeBytes / 8)}`];
    const job = ['--name=bench', '--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`];
    const work = [`--rw=${rw}`, `--bs=${bytes}`, `--size=${sizeBytes}`, `--iodepth=${DEPTH}`];
    const options = ['--thread', '--randrepeat=1', '--norandommap', '--output-format=json'];
    const told = await run('fio', [...job, ...work, ...amount, ...options]);
    // The engine says before it that it is connected.
    const report = JSON.parse(told.slice(told.indexOf('\n{')));
    const figures = report.jobs[0][rw.endsWith('read') ? 'read' : 'write'];
    if (isMeasured && compaction !== null && compaction.exitCode !== null)
      bench.log('the compaction came to its end before the client did');
    return {
      seconds: 2 ** 30 / figures.bw_bytes,
      mebibytesPerSecond: figures.bw_bytes / 2 ** 20,
      requestsPerSecond: figures.iops,
      latencyP99Ms: figures.clat_ns.percentile['99.000000'] / 1e6,
      peakBytes: peakOf(server.pid),
    };
  } finally {
    server.kill('SIGTERM');
    await closed;
    ended(server);
    compaction?.kill();
    fs.rmSync(socket, { force: true });
    await bench.checkResult(bench.copy);
  }
}

/** Begins, and has planned by the time that it is answered. */
async function compactOn(socket) {
  const now = spawn(NODE, [TOOL, 'now', '--quiet', socket], { stdio: 'ignore' });
  for (let tries = 0; tries < 100 && now.exitCode === null; tries++) {
    const { image } = JSON.parse(await run(NODE, [TOOL, 'status', '--json', socket]));
    if (image.movesUnderWay + image.clustersMoved > 0) break;
  }
  return now;
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
