/** What the bench makes of its figures: verdicts, moves, charts. */
import { describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { image } from '../support/image-builder.js';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { type Verdict, benchModule } from './bench.js';

interface Moves {
  data: [from: number, to: number, lengthBytes: number][];
  tables: [from: number, to: number, lengthBytes: number][];
  lengthAfter: number;
}

const { judge } = await benchModule<{ judge: (results: object[], options: object) => Verdict[] }>(
  'bounds.mjs',
);
const { movesBetween } = await benchModule<{ movesBetween: (before: string, after: string) => Moves }>(
  'moves.mjs',
);
const { axisTo, lineChart } = await benchModule<{
  axisTo: (most: number, steps: number) => { end: number; ticks: number[]; label: (tick: number) => string };
  lineChart: (chart: object) => string;
}>('line-chart.mjs');

const MIB = 2 ** 20;
const OPTIONS = { sizeBytes: 2 ** 32 };

describe('bounds', () => {
  const half = (changed: object) => ({
    case: 'half',
    fileSystem: 'ext4',
    movesBy: 'copying',
    peakBytes: 120 * MIB,
    rivals: [
      { name: 'convert + sync', ratio: 0.6 },
      { name: 'bare loop, sync', ratio: 1.1 },
    ],
    bytesWritten: 1.02 * 1000 * MIB + 0.05 * 10 * MIB,
    bytesShared: 0,
    mustMoveBytes: 1000 * MIB,
    metadataBytes: 10 * MIB,
    ...changed,
  });
  const verdictsOf = (result: object) =>
    judge([result], OPTIONS).map(({ verdict, what }) => `${verdict} ${what.replace(/:? .*/, '')}`);

  test('pass where the figure is the limit itself', () => {
    expect(verdictsOf(half({}))).toEqual(['pass wall', 'pass wall', 'pass copied', 'pass peak']);
  });

  test('are missed a little beyond it, each by itself', () => {
    const rivals = [
      { name: 'convert + sync', ratio: 0.61 },
      { name: 'bare loop, async', ratio: 1.11 },
    ];
    expect(verdictsOf(half({ rivals, bytesWritten: 1021 * MIB, peakBytes: 121 * MIB }))).toEqual([
      'MISS wall',
      'MISS wall',
      'MISS copied',
      'MISS peak',
    ]);
  });

  test('are unknown where there is no figure', () => {
    expect(verdictsOf(half({ rivals: [], peakBytes: NaN }))).toEqual([
      'unknown wall',
      'unknown wall',
      'pass copied',
      'unknown peak',
    ]);
  });

  test('with shared blocks: tables may be written, not a byte of data', () => {
    const sharing = {
      movesBy: 'sharing',
      bytesShared: 999 * MIB,
      dataBytesMoved: 999 * MIB,
      rivals: [{ name: 'convert + sync', ratio: 0.12 }],
    };
    const all = ['pass blocks', 'pass blocks', 'pass peak'];
    expect(verdictsOf(half(sharing))).toEqual(all);
    expect(verdictsOf(half({ ...sharing, bytesShared: 998 * MIB }))[1]).toBe('MISS blocks');
    const rivals = [{ name: 'convert + sync', ratio: 0.13 }];
    expect(verdictsOf(half({ ...sharing, rivals }))[0]).toBe('MISS blocks');
  });

  test('a file that was touched counts as written to', () => {
    const clean = { case: 'clean', fileSystem: 'xfs', rivals: [], bytesWritten: 0, peakBytes: MIB };
    const written = (touched: boolean) =>
      judge([{ ...clean, touched }], OPTIONS).find(({ what }) => what.includes('written'))?.verdict;
    expect([written(false), written(true)]).toEqual(['pass', 'MISS']);
  });

  test('memory has none for images beyond 64 GiB', () => {
    const whats = judge([half({ peakBytes: 200 * MIB })], { sizeBytes: 2 ** 37 }).map(({ what }) => what);
    expect(whats.filter((what) => what.includes('memory'))).toEqual([]);
  });
});

describe('moves told from the tables', () => {
  const directory = temporaryDirectory();

  test('are all that the tool moved, to where it moved them, in pieces of 1 MiB at most', async () => {
    const before = image({ clusterBits: 16, virtualSize: 64 << 20 })
      .writeRange(0, 100)
      .layout({
        junk: 80,
        arrange: (units) => [
          ...units.filter(({ name }) => name === 'junk'),
          ...units.filter(({ name }) => name.startsWith('data')),
          ...units.filter(({ name }) => name !== 'junk' && !name.startsWith('data')),
        ],
      })
      .build();
    const memory = new MemoryDevice(before);
    const { bytesMoved } = await compactDevice(memory);
    const after = memory.bytes();
    const moves = movesBetween(directory.store('before', before), directory.store('after', after));
    const all = [...moves.data, ...moves.tables];
    expect(all.reduce((sum, [, , length]) => sum + length, 0)).toBe(bytesMoved);
    expect(moves.tables.length).toBeGreaterThan(0);
    expect(moves.lengthAfter).toBe(after.length);
    expect(Math.max(...moves.data.map(([, , length]) => length))).toBe(MIB);
    for (const [from, to, length] of moves.data) {
      expect(Buffer.compare(before.subarray(from, from + length), after.subarray(to, to + length))).toBe(0);
      expect(from).toBeGreaterThanOrEqual(after.length);
    }
  });
});

describe('line charts', () => {
  test.each([
    [0.224, 5, '0.00 0.05 0.10 0.15 0.20 0.25'],
    [1024, 8, '0 200 400 600 800 1,000 1,200'],
    [4.6, 5, '0 1 2 3 4 5'],
    [10, 4, '0.0 2.5 5.0 7.5 10.0'],
    [0, 5, '0 1'],
  ])('up to %d in %d steps the ticks are round', (most, steps, expected) => {
    const { ticks, label, end } = axisTo(most, steps);
    expect(ticks.map(label).join(' ')).toBe(expected);
    expect(end).toBeGreaterThanOrEqual(most);
  });

  const chart = {
    title: 'Time & <memory>',
    note: 'median',
    x: { label: 'moved (MiB)', values: [0, 50, 100] },
    panels: [
      { label: 'wall time (s)', values: [1, 2, 4], lowest: [1, 1.5, 4], highest: [1, 2.5, 4] },
      { label: 'peak memory (MiB)', values: [50, 50, 50] },
    ],
  };

  test('the same data make the same bytes', () => {
    expect(lineChart(chart)).toBe(lineChart(structuredClone(chart)));
  });

  test('points lie in proportion, in every panel above the same x', () => {
    const lines = [...lineChart(chart).matchAll(/<polyline [^>]*points="([^"]*)"/g)].map((match) =>
      match[1]!.split(' ').map((point) => point.split(',').map(Number)),
    );
    expect(lines).toHaveLength(2);
    const [time, memory] = lines as [number[][], number[][]];
    expect(memory.map(([x]) => x)).toEqual(time.map(([x]) => x));
    const [first, second, last] = time as [number[], number[], number[]];
    expect(second[0]! - first[0]!).toBeCloseTo(last[0]! - second[0]!, 0);
    // 2 - 1 is half of 4 - 2, and more lies higher.
    expect((first[1]! - second[1]!) * 2).toBeCloseTo(second[1]! - last[1]!, 0);
    expect(last[1]!).toBeLessThan(first[1]!);
    expect(new Set(memory.map(([, y]) => y)).size).toBe(1);
  });

  test('title, axes and units are there, signs escaped; one run spread out, drawn as one bar', () => {
    const svg = lineChart(chart);
    for (const words of ['Time &amp; &lt;memory&gt;', 'moved (MiB)', 'wall time (s)', 'peak memory (MiB)'])
      expect(svg).toContain(`>${words}</`);
    expect(svg).not.toContain('<memory>');
    expect(svg.match(/class="range /g)).toHaveLength(1);
    expect(svg).toContain('prefers-color-scheme: dark');
    expect(svg).not.toMatch(/NaN|undefined|Infinity/);
  });
});
