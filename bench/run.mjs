/**
 * Measures qcow-compact against what one would do without it. Prints ratios and judges the project's bounds;
 * a missed bound is printed, never an exit status: machines differ. See docs/performance.md.
 */
import fs from 'node:fs';
import path from 'node:path';
import { judge } from './bounds.mjs';
import { runCases } from './cases/index.mjs';
import { loopFileBytes, whatIsMissing, withFileSystem } from './file-systems.mjs';
import { fileSystemOf, isInstalled, mountOptionsOf } from './host.mjs';
import { describeHost } from './machine.mjs';
import { Interrupted, listen } from './interrupts.mjs';
import { Bench } from './measure.mjs';
import { readOptions } from './options.mjs';
import { table, verdictLines } from './report.mjs';
import { measureScaling } from './scaling.mjs';

const options = readOptions(process.argv.slice(2));
const log = (line) => process.stderr.write(`bench: ${line}\n`);
const neededBytes = 5 * options.sizeBytes;

requirePrograms();
requireSpace();
listen();
const host = await describeHost(options);
log(`${host.cpu}, ${host.cpus} cores; cache ${host.cache}; peak memory: ${host.peakMemory}`);

const results = [];
try {
  await inEveryPlace(options.scaling ? measureScalingIn : runIn);
} catch (error) {
  if (!(error instanceof Interrupted)) throw error;
  log(error.message);
  process.exitCode = error.exitStatus;
} finally {
  // What was measured before a failure is worth reading too.
  report();
}

async function inEveryPlace(work) {
  if (options.fileSystems.length === 0) await withWorkDir(options.dir, work);
  for (const kind of options.fileSystems) {
    await withFileSystem(kind, options.dir, neededBytes, (point) => withWorkDir(point, work));
  }
}

async function runIn(workDir) {
  const place = { fileSystem: fileSystemOf(workDir), mountOptions: mountOptionsOf(workDir) };
  warnOf(place);
  const prefix = options.fileSystems.length > 1 ? `${place.fileSystem}: ` : '';
  const bench = new Bench(workDir, options, (line) => log(`${prefix}${line}`));
  await runCases(bench, options, (result) => results.push({ ...place, ...result }));
}

async function measureScalingIn(workDir) {
  const place = { fileSystem: fileSystemOf(workDir), mountOptions: mountOptionsOf(workDir) };
  warnOf(place);
  const sweeps = await measureScaling(new Bench(workDir, options, log), options);
  if (options.jsonPath !== null) writeJson({ host, options, ...place, sweeps });
}

async function withWorkDir(dir, work) {
  const workDir = fs.mkdtempSync(path.join(dir, 'qcow-compact-bench-'));
  try {
    await work(workDir);
  } finally {
    fs.rmSync(workDir, { recursive: true, force: true });
  }
}

function warnOf({ fileSystem, mountOptions }) {
  if (fileSystem === 'tmpfs')
    log('this is a tmpfs: no disk, no cold cache, and a sync costs nothing; use --dir for a disk');
  if (mountOptions.split(',').includes('discard'))
    log(
      'mounted with `discard`: the disk is told of every block that a truncation frees, and that is measured too',
    );
}

function report() {
  if (results.length === 0) return;
  const verdicts = judge(results, options);
  process.stdout.write(`${table(results)}\n\n${verdictLines(verdicts)}\n`);
  process.stdout.write(
    '\nratio: median of the ratios of neighbouring runs; cpu: the same of processor time. Bounds are shown, never enforced.\n',
  );
  if (options.jsonPath !== null) writeJson({ host, options, results, verdicts });
}

function writeJson(document) {
  fs.writeFileSync(options.jsonPath, `${JSON.stringify(document, null, 2)}\n`);
}

function requirePrograms() {
  const packages = { 'qemu-img': 'qemu-utils', 'qemu-io': 'qemu-utils' };
  if (options.cases.includes('serve')) packages.fio = 'fio';
  const missing = Object.entries(packages)
    .filter(([program]) => !isInstalled(program))
    .map(([program, name]) => `${program} is missing; on Debian: apt-get install ${name}`);
  refuse([...missing, ...whatIsMissing(options.fileSystems)]);
}

/** Full image, half of it, an image of the case, its copy and the converted one. */
function requireSpace() {
  const { bavail, bsize } = fs.statfsSync(options.dir);
  const needed = options.fileSystems.length > 0 ? loopFileBytes(neededBytes) : neededBytes;
  if (bavail * bsize >= needed) return;
  const gib = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  refuse([`${options.dir} has ${gib(bavail * bsize)} free, ${gib(needed)} are needed; see --size and --dir`]);
}

function refuse(lines) {
  if (lines.length === 0) return;
  for (const line of lines) log(line);
  process.exit(69);
}
