/** An image that is compact already, against starting Node and reading the metadata. */
import fs from 'node:fs';
import path from 'node:path';
import { run } from '../host.mjs';
import { against, NODE, peakOf, ROOT, secondsOf } from '../measure.mjs';
import { metadataStretches } from '../metadata.mjs';

const METADATA = path.join(ROOT, 'bench/metadata.mjs');
/** What takes a tenth of a second is measured this many times as often. */
export const SHORT_RUNS = 4;

/** `master` is compacted first. */
export async function nothingToDo(bench, name, master, { rounds = bench.runs * SHORT_RUNS } = {}) {
  await bench.restore(master);
  await bench.compact();
  await bench.checkResult(bench.copy);
  const stretches = metadataStretches(bench.copy);
  const stretchesPath = bench.path('stretches.json');
  fs.writeFileSync(stretchesPath, JSON.stringify(stretches));
  const sides = {
    node: () => bench.timed(NODE, ['-e', '0']),
    read: async () => ({ seconds: Number(await run(NODE, [METADATA, bench.copy, stretchesPath])) }),
    tool: async () => {
      const before = fs.statSync(bench.copy, { bigint: true });
      const sample = await bench.compact();
      const after = fs.statSync(bench.copy, { bigint: true });
      return { ...sample, touched: before.mtimeNs !== after.mtimeNs || before.size !== after.size };
    },
  };
  // The file is only read: one copy serves all runs, made cold before each.
  const samples = await bench.alternate(name, sides, { rounds, prepare: () => bench.makeCold() });
  const both = samples.node.map(({ seconds, cpuSeconds, peakBytes }, i) => ({
    seconds: seconds + samples.read[i].seconds,
    cpuSeconds,
    peakBytes,
  }));
  const results = samples.tool.map(({ result }) => result);
  return {
    case: name,
    seconds: secondsOf(samples.tool),
    peakBytes: peakOf(samples.tool),
    rivals: [against('node -e 0 + read', samples.tool, both)],
    nodeSeconds: secondsOf(samples.node),
    readSeconds: secondsOf(samples.read),
    metadataBytes: stretches.reduce((sum, [, length]) => sum + length, 0),
    mustMoveBytes: 0,
    bytesWritten: Math.max(...results.map(({ bytesWritten }) => bytesWritten)),
    barriers: Math.max(...results.map(({ barriers }) => barriers)),
    touched: samples.tool.some(({ touched }) => touched),
    outcomes: [...new Set(results.map(({ outcome }) => outcome))],
    samples,
  };
}
