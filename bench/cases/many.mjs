/** Many images: the tool once for all of them, against a loop of the shell with a process for each. */
import fs from 'node:fs';
import os from 'node:os';
import { run } from '../host.mjs';
import { against, NODE, peakOf, secondsOf, TOOL } from '../measure.mjs';
import { metadataBytes } from '../metadata.mjs';

const LOOP = 'for i; do qemu-img convert -O qcow2 "$i" "$i.new" && sync -f "$i.new" || exit 1; done';

/** `count` copies of `master`: one result for the tool as it is, one more with `--jobs` where it knows that. */
export async function many(bench, master, count) {
  const images = Array.from({ length: count }, (_, i) => bench.path(`many-${i}.qcow2`));
  const jobs = os.cpus().length;
  const sides = {
    convert: async () => {
      const sample = await bench.timed('sh', ['-c', LOOP, 'sh', ...images]);
      for (const image of images) fs.rmSync(`${image}.new`);
      return sample;
    },
    many: () => compactAll(bench, images, master),
    ...((await knowsJobs()) && {
      [`many --jobs ${jobs}`]: () => compactAll(bench, images, master, ['--jobs', String(jobs)]),
    }),
  };
  const prepare = async () => {
    for (const image of images) await fs.promises.copyFile(master, image);
    await bench.makeCold();
  };
  const { convert, ...ofTool } = await bench.alternate('many', sides, { prepare });
  for (const image of images) fs.rmSync(image);
  return Object.entries(ofTool).map(([name, tool]) => ({
    case: name,
    images: count,
    seconds: secondsOf(tool),
    peakBytes: peakOf(tool),
    rivals: [against('convert + sync, each', tool, convert)],
    mustMoveBytes: tool[0].mustMoveBytes,
    bytesWritten: Math.max(...tool.map(({ bytesWritten }) => bytesWritten)),
    metadataBytes: count * metadataBytes(master),
    samples: { tool, convert },
  }));
}

async function compactAll(bench, images, master, options = []) {
  const { sample, results } = await bench.compactAll(images, options);
  for (const { path, outcome } of results)
    if (outcome !== 'compacted') throw new Error(`${path}: ${outcome}`);
  if (results.length !== images.length) throw new Error(`${results.length} of ${images.length} images`);
  await bench.checkResult(images[0], master);
  await bench.checkResult(images.at(-1), master);
  const sum = (name) => results.reduce((total, result) => total + result[name], 0);
  return { ...sample, mustMoveBytes: sum('bytesToCopy'), bytesWritten: sum('bytesWritten') };
}

async function knowsJobs() {
  return /--jobs\b/.test(await run(NODE, [TOOL, '--help']));
}
