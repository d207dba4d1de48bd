/**
 * Measures qcow-compact against what one would do without it. Prints ratios and judges the project's bounds;
 * a missed bound is printed, never an exit status: machines differ. See docs/performance.md.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Bench } from './cases.mjs';
import {
  canDropCaches,
  fileSystemOf,
  hasGnuTime,
  isInstalled,
  isTmpfs,
  mountOptionsOf,
  run,
} from './host.mjs';
import { makeDiscardedImage, makeFullImage, PIECE_BYTES } from './images.mjs';
import { readOptions } from './options.mjs';
import { judge, table, verdictLines } from './report.mjs';

const options = readOptions(process.argv.slice(2));
const log = (line) => process.stderr.write(`bench: ${line}\n`);

for (const program of ['qemu-img', 'qemu-io']) {
  if (isInstalled(program)) continue;
  process.stderr.write(`bench: ${program} is missing; on Debian: apt-get install qemu-utils\n`);
  process.exit(69);
}
requireSpace(options.dir, options.sizeBytes);

const host = {
  cpus: os.cpus().length,
  node: process.version,
  qemu: run('qemu-img', ['--version']).split('\n')[0],
  fileSystem: fileSystemOf(options.dir),
  mountOptions: mountOptionsOf(options.dir),
  cache: canDropCaches ? 'cold (caches dropped)' : 'cold for the image (posix_fadvise)',
  peakMemory: hasGnuTime ? 'GNU time' : 'not measured (no /usr/bin/time)',
};
log(
  `${options.dir} on ${host.fileSystem}, ${host.cpus} cores, cache ${host.cache}, peak memory: ${host.peakMemory}`,
);
if (isTmpfs(options.dir))
  log('this is a tmpfs: no disk, no cold cache, and a sync costs nothing; use --dir for a disk');
if (host.mountOptions.split(',').includes('discard')) {
  log(
    'mounted with `discard`: the disk is told of every block that a truncation frees, and that is measured too',
  );
}

const workDir = fs.mkdtempSync(path.join(options.dir, 'qcow-compact-bench-'));
const removeWorkDir = () => fs.rmSync(workDir, { recursive: true, force: true });
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    removeWorkDir();
    process.exit(130);
  });
}

const results = [];
try {
  runCases();
} finally {
  // What was measured before a failure is worth reading too.
  report();
  removeWorkDir();
}

function report() {
  if (results.length === 0) return;
  const verdicts = judge(results);
  process.stdout.write(`${table(results)}\n\n${verdictLines(verdicts)}\n`);
  process.stdout.write(
    '\nratio: median of the ratios of neighbouring runs; cpu: the same of processor time. Bounds are shown, never enforced.\n',
  );
  if (options.jsonPath === null) return;
  fs.writeFileSync(options.jsonPath, `${JSON.stringify({ host, options, results, verdicts }, null, 2)}\n`);
}

function runCases() {
  const bench = new Bench(workDir, options.runs, log);
  const { cases, sizeBytes, keepBlocks } = options;
  if (cases.some((name) => name !== 'version')) {
    log(`making images of ${sizeBytes / 2 ** 20} MiB`);
    const full = makeFullImage(workDir, sizeBytes);
    const pieces = sizeBytes / PIECE_BYTES;
    const discarded = (name, count) => {
      const image = path.join(workDir, `${name}.qcow2`);
      makeDiscardedImage(full, image, sizeBytes, count, keepBlocks);
      return image;
    };
    if (cases.includes('half') || cases.includes('clean')) {
      const half = discarded('half', Math.floor(pieces / 2));
      if (cases.includes('half')) results.push(bench.againstConvert('half', half));
      if (cases.includes('clean')) results.push(bench.clean('clean', half));
      fs.rmSync(half);
    }
    if (cases.includes('tail')) {
      results.push(bench.againstConvert('tail', discarded('tail', Math.ceil(pieces / 20))));
    }
  }
  if (cases.includes('version')) results.push(bench.version());
}

/** Full image, discarded one, its copy and the converted one or the raw source. */
function requireSpace(dir, sizeBytes) {
  const { bavail, bsize } = fs.statfsSync(dir);
  const needed = 4 * sizeBytes;
  if (bavail * bsize >= needed) return;
  const gib = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  process.stderr.write(
    `bench: ${dir} has ${gib(bavail * bsize)} free, ${gib(needed)} are needed; see --size and --dir\n`,
  );
  process.exit(69);
}
