/**
 * How the time and the peak memory of a compaction grow: with the bytes that move, with the size of the image, and with
 * the number of snapshots. Each sweep changes one of them and holds the others, and ends as a chart.
 */
import fs from 'node:fs';
import path from 'node:path';
import { run } from './host.mjs';
import { addSnapshots, makeDiscardedImage, makeFullImage, makeSparseImage, PIECE_BYTES } from './images.mjs';
import { lineChart } from './line-chart.mjs';
import { median, peakOf, secondsOf } from './measure.mjs';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** Of the image, what is to move. The most that scattered discards can make move is a quarter. */
const MOVED_SHARES = [0, 0.05, 0.1, 0.15, 0.2, 0.25];
/** Sizes of the sparse images, in times `--size`; of which this share moves. */
const SIZES = [4, 64, 128, 192, 256];
const MOVED_OF_SPARSE = 1 / 32;
const SNAPSHOT_COUNTS = [0, 10, 20, 40, 80];
/** Of the disk, what is written anew between the snapshots, however many they are. */
const WRITTEN_SHARE = 1 / 8;

/** Each: what changes, over which values, how the image is made. */
const SWEEPS = {
  moved: {
    title: ({ disk }) => `Compacting an image of a ${disk} disk, by what has to move`,
    xLabel: 'moved (MiB)',
    xOf: ({ bytesMoved }) => bytesMoved / MIB,
    values: MOVED_SHARES,
    make: makeMoving,
  },
  size: {
    title: ({ moved }) => `Moving ${moved}, by the size of the image`,
    xLabel: 'disk of the guest, all of it described (GiB)',
    xOf: ({ virtualBytes }) => virtualBytes / GIB,
    values: SIZES,
    make: ({ sizeBytes }, image, times) =>
      makeSparseImage(image, times * sizeBytes, MOVED_OF_SPARSE * sizeBytes),
  },
  snapshots: {
    title: ({ disk }) => `Compacting an image of a ${disk} disk, by the number of snapshots`,
    xLabel: 'internal snapshots',
    xOf: ({ snapshotCount }) => snapshotCount,
    values: SNAPSHOT_COUNTS,
    make: makeWithSnapshots,
  },
};

export const SWEEP_NAMES = Object.keys(SWEEPS);

/** Draws the charts of the sweeps; their points, by name. */
export async function measureScaling(bench, { sizeBytes, sweeps, charts }) {
  const source = { full: bench.path('full.qcow2'), half: bench.path('half.qcow2'), sizeBytes };
  if (sweeps.some((name) => name !== 'size')) {
    bench.log(`making a full image of ${sizeBytes / MIB} MiB`);
    await makeFullImage(source.full, sizeBytes);
    await makeDiscardedImage(source.full, source.half, { sizeBytes, count: sizeBytes / PIECE_BYTES / 2 });
  }
  const titled = { disk: sizeOf(sizeBytes), moved: sizeOf(MOVED_OF_SPARSE * sizeBytes) };
  const measured = {};
  for (const name of sweeps) {
    const points = await sweep(bench, name, SWEEPS[name], source);
    measured[name] = points;
    const chart = drawn(SWEEPS[name], points, titled, bench.runs);
    fs.writeFileSync(path.join(charts, `scaling-${name}.svg`), chart);
  }
  return measured;
}

/** One image for each value; every run on a fresh copy, cold. */
async function sweep(bench, name, { values, make }, source) {
  const master = bench.path('master.qcow2');
  const points = [];
  for (const value of values) {
    await make(source, master, value);
    const tool = () => bench.compact();
    const samples = await bench.alternate(
      `${name} ${value}`,
      { tool },
      { prepare: () => bench.prepareCold(master) },
    );
    await bench.checkResult(bench.copy);
    points.push(pointOf(samples.tool));
    fs.rmSync(master);
  }
  return points;
}

function pointOf(samples) {
  const { bytesMoved, virtualBytes, snapshotCount, movesBy } = samples[0].result;
  const all = samples.map(({ seconds }) => seconds);
  return {
    ...{ bytesMoved, virtualBytes, snapshotCount, movesBy },
    seconds: secondsOf(samples),
    lowestSeconds: Math.min(...all),
    highestSeconds: Math.max(...all),
    peakBytes: median(samples.map(({ peakBytes }) => peakBytes ?? NaN)),
    highestPeakBytes: peakOf(samples),
  };
}

/** Where a share d of the pieces is discarded, d (1 - d) of the disk lies beyond the new end. */
async function makeMoving({ full, sizeBytes }, image, share) {
  const discarded = (1 - Math.sqrt(1 - 4 * share)) / 2;
  const count = Math.round((sizeBytes / PIECE_BYTES) * discarded);
  await makeDiscardedImage(full, image, { sizeBytes, count });
}

async function makeWithSnapshots({ half, sizeBytes }, image, count) {
  await run('cp', ['--sparse=auto', '--reflink=auto', half, image]);
  await addSnapshots(image, { sizeBytes, pieces: (sizeBytes / PIECE_BYTES) * WRITTEN_SHARE, count });
}

function drawn({ title, xLabel, xOf }, points, titled, runs) {
  const wall = {
    label: 'wall time (s)',
    values: points.map(({ seconds }) => seconds),
    lowest: points.map(({ lowestSeconds }) => lowestSeconds),
    highest: points.map(({ highestSeconds }) => highestSeconds),
  };
  const peak = { label: 'peak memory (MiB)', values: points.map(({ peakBytes }) => peakBytes / MIB) };
  const isKnown = peak.values.every((value) => !Number.isNaN(value));
  return lineChart({
    title: title(titled),
    note: `median of ${runs} runs, cold cache; bars: fastest and slowest`,
    x: { label: xLabel, values: points.map(xOf) },
    panels: [wall, ...(isKnown ? [peak] : [])],
  });
}

function sizeOf(bytes) {
  return bytes >= GIB ? `${bytes / GIB} GiB` : `${bytes / MIB} MiB`;
}
