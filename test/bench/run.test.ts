/** The bench measures what it says, and leaves nothing behind. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { bench, documentAt } from './bench.js';

const directory = temporaryDirectory();

function emptyDirectory(name: string): string {
  const path = directory.path(name);
  fs.mkdirSync(path);
  return path;
}

const mountsBelow = (path: string): string[] =>
  fs
    .readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.includes(path));

test('every case is measured, judged and written down', { timeout: 180_000 }, async () => {
  const dir = emptyDirectory('all');
  const json = directory.path('all.json');
  const run = await bench(['--warm', '--size', '16M', '--runs', '1', '--dir', dir, '--json', json]);
  expect(run).toMatchObject({ status: 0 });
  const { results, verdicts } = documentAt(json);
  const names = results.map((result) => result.case);
  const expected = [
    'half',
    'clean',
    'snapshots',
    'tail',
    'compressed',
    'metadata',
    'small',
    'many',
    ...['serve read', 'serve read, compacting', 'serve write', 'serve write, compacting'],
    ...['serve 4k read', 'serve 4k read, compacting', 'serve 4k write', 'serve 4k write, compacting'],
    'version',
  ];
  expect(names.filter((name) => !name.startsWith('many --jobs'))).toEqual(expected);
  for (const { seconds, rivals, case: name } of results) {
    expect(seconds).toBeGreaterThan(0);
    for (const { ratio } of rivals) expect(ratio).toBeGreaterThan(0);
    expect(run.stdout).toContain(`\n${name} `);
  }
  // What must move is known: a share of 16 MiB, whose 1 MiB pieces were discarded.
  const moved = Object.fromEntries(results.map(({ case: name, mustMoveBytes }) => [name, mustMoveBytes]));
  expect(moved).toMatchObject({ half: 4 << 20, tail: 1 << 20, clean: 0, metadata: 0 });
  for (const name of ['snapshots', 'compressed', 'small', 'many']) expect(moved[name]).toBeGreaterThan(0);
  const half = results[0]!;
  const rivals = half.rivals.map(({ name }) => name.replace(/,.*/, ''));
  expect(rivals).toEqual(half.movesBy === 'sharing' ? ['convert + sync'] : ['convert + sync', 'bare loop']);
  // These hold on every machine.
  const written = verdicts.filter(({ what }) => what.includes('written'));
  expect(written.filter(({ verdict }) => verdict !== 'pass')).toEqual([]);
  // Where the host shares blocks, there are no more than those of half, clean and metadata.
  expect(written.length).toBeGreaterThanOrEqual(3);
  expect(run.stdout.match(/^(pass|MISS|unknown) /gm)).toHaveLength(verdicts.length);
  expect(fs.readdirSync(dir)).toEqual([]);
});

test('--scaling draws a chart for each sweep', async () => {
  const dir = emptyDirectory('scaling');
  const charts = emptyDirectory('charts');
  const options = ['--warm', '--size', '32M', '--runs', '1', '--dir', dir, '--charts', charts];
  const run = await bench(['--scaling', '--sweeps', 'size,moved', ...options]);
  expect(run).toMatchObject({ status: 0 });
  expect(fs.readdirSync(charts)).toEqual(['scaling-moved.svg', 'scaling-size.svg']);
  for (const name of fs.readdirSync(charts)) {
    expect(fs.readFileSync(`${charts}/${name}`, 'utf8')).toMatch(/^<svg [^]*<polyline [^]*<\/svg>\n$/);
  }
  expect(fs.readdirSync(dir)).toEqual([]);
});

test.each([
  [['--cases', 'half,quarter'], 'no such case: quarter'],
  [['--file-systems', 'fat'], 'no such file system: fat'],
  [['--size', '5'], '--size must be whole MiB, 8M or more; got 5'],
  [['--runs', '0'], '--runs must be a whole number, 1 or more; got 0'],
  [['--scaling', '--size', '16M'], '--scaling takes a --size of 32M or more'],
  [['--scaling', '--sweeps', 'time'], 'no such sweep: time'],
  [['--scaling', '--file-systems', 'ext4,xfs'], '--scaling is for one file system'],
])('%j is refused', async (args, message) => {
  const run = await bench(args);
  expect(run).toMatchObject({ status: 64, stdout: '' });
  expect(run.stderr).toContain(`bench: ${message}\n`);
});

test('a signal does not wait for the child that runs', async () => {
  const module = (name: string) => JSON.stringify(new URL(`../../bench/${name}`, import.meta.url).href);
  const script = `
    const { listen } = await import(${module('interrupts.mjs')});
    const { run } = await import(${module('host.mjs')});
    listen();
    setTimeout(() => process.kill(process.pid, 'SIGTERM'), 100);
    await run('sleep', ['60']).catch((error) => process.stdout.write(error.message));
  `;
  const startedAt = Date.now();
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  expect(child.stdout).toBe('interrupted by SIGTERM');
  expect(Date.now() - startedAt).toBeLessThan(30_000);
});

const isRoot = process.platform === 'linux' && process.geteuid?.() === 0;

describe.skipIf(!isRoot)('on file systems of its own', () => {
  test('each is measured by itself and gone afterwards', async () => {
    const dir = emptyDirectory('each');
    const json = directory.path('each.json');
    const args = ['--warm', '--size', '8M', '--runs', '1', '--cases', 'half', '--dir', dir, '--json', json];
    const run = await bench([...args, '--file-systems', 'xfs,ext4,btrfs']);
    expect(run).toMatchObject({ status: 0 });
    const { results, verdicts } = documentAt(json);
    expect(results.map(({ fileSystem, movesBy }) => [fileSystem, movesBy])).toEqual([
      ['ext4', 'copying'],
      ['xfs', 'sharing'],
      ['btrfs', 'sharing'],
    ]);
    const dataWritten = verdicts.filter(({ what }) => what === 'blocks shared: no byte of data written');
    expect(dataWritten.map(({ verdict }) => verdict)).toEqual(['pass', 'pass']);
    expect(mountsBelow(dir)).toEqual([]);
    expect(fs.readdirSync(dir)).toEqual([]);
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s unmounts, removes, and ends with %d', async (signal, status) => {
    const dir = emptyDirectory(signal);
    let mounted: string[] = [];
    const run = await bench(
      ['--warm', '--size', '8M', '--runs', '1000', '--cases', 'half', '--file-systems', 'ext4', '--dir', dir],
      (stderr, kill) => {
        if (!stderr.includes('half 1/1000') || mounted.length > 0) return;
        mounted = mountsBelow(dir);
        kill(signal);
      },
    );
    expect(mounted).toHaveLength(1);
    expect(run).toMatchObject({ status });
    expect(run.stderr).toMatch(new RegExp(`bench: interrupted by ${signal}\n$`));
    expect(mountsBelow(dir)).toEqual([]);
    expect(fs.readdirSync(dir)).toEqual([]);
  });
});
