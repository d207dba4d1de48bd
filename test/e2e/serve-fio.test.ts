/**
 * fio writes, discards and verifies over NBD with several jobs, while the server compacts again and again beside it. Its numbers
 * are of its own making: SEED says which, SECONDS how long.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { beforeAll, expect, test } from 'vitest';
import { askServer } from '../../src/nbd/control-client.js';
import { tool } from '../support/nbd-tools.js';
import { checkImage, qemuImg, requireQemu } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { serving } from './serving.js';

const SEED = process.env.SEED ?? '1';
const SECONDS = process.env.SECONDS ?? '3';
const directory = temporaryDirectory();
const image = directory.path('vm.qcow2');
const socket = directory.path('vm.sock');

beforeAll(() => {
  requireQemu();
  if (spawnSync('fio', ['--enghelp=nbd'], { encoding: 'utf8' }).status !== 0)
    throw new Error('fio with its engine for NBD not found: install fio (Debian, Ubuntu)');
});

/** Of a job: its own part of the disk, so that it knows what is there. */
const JOB = ['--size=20M', '--iodepth=8', '--randrepeat=1', `--randseed=${SEED}`, '--time_based=1'];
const VERIFY = ['--verify=crc32c', '--verify_fatal=1', '--verify_backlog=64', '--verify_state_save=0'];

interface JobReport {
  jobname: string;
  error: number;
  read: { io_bytes: number };
  write: { io_bytes: number };
  trim: { io_bytes: number };
}

test('fio reads what it has written', async () => {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', image, '100M');
  const { uri, stop, events } = await serving(
    ...['--socket', socket, '--keep-erased', '50', '--compact-after', '1', image],
  );
  let isOver = false;
  let bytesReclaimed = 0;
  const compacting = (async () => {
    while (!isOver) {
      const { facts } = await askServer({ path: socket }, socket, 'now', () => undefined);
      bytesReclaimed += facts?.bytesReclaimed as number;
    }
  })();
  const job = (name: string, offset: string, ...args: string[]): string[] => [
    ...[`--name=${name}`, `--offset=${offset}`, ...JOB, ...args],
  ];
  const report = directory.path('fio.json');
  await tool(
    'fio',
    ...[
      '--ioengine=nbd',
      `--uri=${uri}`,
      `--runtime=${SECONDS}`,
      '--output-format=json',
      `--output=${report}`,
    ],
    ...job('mixed', '0', '--rw=randrw', '--bsrange=512-64k', '--bs_unaligned=0', '--fsync=32', ...VERIFY),
    ...job('small', '20M', '--rw=randwrite', '--bs=512', ...VERIFY),
    ...job('large', '40M', '--rw=randrw', '--bs=256k', ...VERIFY),
    ...job('discards', '60M', '--rw=randtrim', '--bs=16k'),
    // A discard and a write of one block that are under way at a time have no order.
    ...job(
      'trims and writes',
      '80M',
      '--rw=trimwrite',
      '--bs=32k',
      '--fsync=16',
      ...VERIFY,
      '--serialize_overlap=1',
    ),
  ).finally(async () => {
    isOver = true;
    await compacting;
  });
  const { jobs } = JSON.parse(fs.readFileSync(report, 'utf8')) as { jobs: JobReport[] };
  expect(jobs.map(({ jobname, error }) => [jobname, error])).toEqual(
    ['mixed', 'small', 'large', 'discards', 'trims and writes'].map((name) => [name, 0]),
  );
  const sum = (kind: 'read' | 'write' | 'trim'): number =>
    jobs.reduce((total, job) => total + job[kind].io_bytes, 0);
  for (const kind of ['read', 'write', 'trim'] as const) expect(sum(kind)).toBeGreaterThan(1 << 20);
  expect(bytesReclaimed).toBeGreaterThan(0);
  expect(await stop()).toMatchObject({ status: 0, stderr: '' });
  expect(events.filter(({ event }) => event === 'failure')).toEqual([]);
  expect(checkImage(image)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
  console.log(
    `fio: ${sum('write') >> 20} MiB written, ${sum('read') >> 20} read, ${sum('trim') >> 20} discarded; ${bytesReclaimed >> 20} reclaimed meanwhile, ${fs.statSync(image).size >> 20} MiB left`,
  );
});
