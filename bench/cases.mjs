/** The cases: each runs its two sides in alternation and answers what was measured. */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeCold, restore, run, timed } from './host.mjs';
import { metadataStretches } from './metadata.mjs';
import { engineSources, loadedModules } from './modules.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const TOOL = path.join(ROOT, 'bin/qcow-compact.js');
const NODE = process.execPath;
/** What takes a tenth of a second is measured this many times as often. */
const SHORT_RUNS = 4;
const METADATA = fileURLToPath(new URL('metadata.mjs', import.meta.url));

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export class Bench {
  constructor(workDir, runs, log) {
    this.workDir = workDir;
    this.runs = runs;
    this.log = log;
    this.copy = path.join(workDir, 'copy.qcow2');
    this.tiny = path.join(workDir, 'tiny.qcow2');
    run('qemu-img', ['create', '-q', '-f', 'qcow2', this.tiny, '1M']);
  }

  warmUp() {
    run(NODE, ['-e', '0']);
    run(NODE, [TOOL, '--json', this.tiny]);
    run('qemu-img', ['info', this.tiny]);
    run('sh', ['-c', 'true']);
  }

  /** A fresh copy of `master`, nothing of it cached. */
  prepare(master) {
    restore(master, this.copy);
    makeCold(this.copy, () => this.warmUp());
  }

  /** Compacts the copy. */
  compact() {
    const measured = timed(NODE, [TOOL, '--json', this.copy], this.workDir);
    const [result] = JSON.parse(measured.stdout).images;
    return { ...measured, stdout: undefined, result };
  }

  checkResult(master) {
    const checked = run('qemu-img', ['check', '--output=json', this.copy], { statuses: [0, 2, 3] });
    const { corruptions = 0, leaks = 0, 'check-errors': errors = 0 } = JSON.parse(checked);
    if (corruptions + leaks + errors > 0) throw new Error(`qemu-img check found faults: ${checked}`);
    if (master !== null) run('qemu-img', ['compare', '-q', master, this.copy]);
  }

  /** Compaction against `qemu-img convert` and a sync of the new file's file system. */
  againstConvert(name, master) {
    const target = path.join(this.workDir, 'converted.qcow2');
    const convert = 'qemu-img convert -O qcow2 "$1" "$2" && sync -f "$2"';
    const sides = {
      convert: () => {
        const measured = timed('sh', ['-c', convert, 'sh', this.copy, target], this.workDir);
        fs.rmSync(target);
        return { ...measured, stdout: undefined };
      },
      tool: () => {
        const measured = this.compact();
        this.checkResult(samples.tool.length === 0 ? master : null);
        return measured;
      },
    };
    const samples = { convert: [], tool: [] };
    this.alternate(name, master, sides, samples, this.runs);
    const results = samples.tool.map(({ result }) => result);
    const ratios = pairRatios(samples.tool, samples.convert);
    return {
      case: name,
      other: 'convert + sync',
      toolSeconds: median(samples.tool.map(({ seconds }) => seconds)),
      otherSeconds: median(samples.convert.map(({ seconds }) => seconds)),
      ratio: median(ratios),
      ratios,
      cpuRatio: cpuRatio(samples.tool, samples.convert),
      peakBytes: peakOf(samples.tool),
      otherPeakBytes: peakOf(samples.convert),
      lengthBefore: results[0].lengthBefore,
      lengthAfter: results[0].lengthAfter,
      mustMoveBytes: results[0].bytesToCopy,
      bytesWritten: Math.max(...results.map(({ bytesWritten }) => bytesWritten)),
      barriers: results[0].barriers,
      samples,
    };
  }

  /** An image with nothing to gain against starting Node and reading the metadata. */
  clean(name, master) {
    restore(master, this.copy);
    this.compact();
    this.checkResult(master);
    const compacted = path.join(this.workDir, 'compacted.qcow2');
    fs.renameSync(this.copy, compacted);
    const stretches = metadataStretches(compacted);
    const stretchesPath = path.join(this.workDir, 'stretches.json');
    fs.writeFileSync(stretchesPath, JSON.stringify(stretches));
    const sides = {
      node: () => timed(NODE, ['-e', '0'], this.workDir),
      read: () => ({ seconds: Number(run(NODE, [METADATA, this.copy, stretchesPath])) }),
      tool: () => {
        const before = fs.statSync(this.copy, { bigint: true });
        const measured = this.compact();
        const after = fs.statSync(this.copy, { bigint: true });
        const touched = before.mtimeNs !== after.mtimeNs || before.size !== after.size;
        return { ...measured, touched };
      },
    };
    const samples = { node: [], read: [], tool: [] };
    restore(compacted, this.copy);
    // The file is only read: one copy serves all runs, made cold before each.
    this.alternate(name, null, sides, samples, this.runs * SHORT_RUNS);
    this.checkResult(null);
    fs.rmSync(compacted);
    const seconds = (side) => median(samples[side].map((sample) => sample.seconds));
    const ratios = samples.tool.map(
      (sample, i) => sample.seconds / (samples.node[i].seconds + samples.read[i].seconds),
    );
    return {
      case: name,
      other: 'node -e 0 + read',
      toolSeconds: seconds('tool'),
      otherSeconds: seconds('node') + seconds('read'),
      nodeSeconds: seconds('node'),
      readSeconds: seconds('read'),
      metadataBytes: stretches.reduce((sum, [, length]) => sum + length, 0),
      ratio: median(ratios),
      ratios,
      cpuRatio: cpuRatio(samples.tool, samples.node),
      peakBytes: peakOf(samples.tool),
      bytesWritten: Math.max(...samples.tool.map(({ result }) => result.bytesWritten)),
      barriers: Math.max(...samples.tool.map(({ result }) => result.barriers)),
      touched: samples.tool.some(({ touched }) => touched),
      outcomes: [...new Set(samples.tool.map(({ result }) => result.outcome))],
      samples,
    };
  }

  /** `--version` against `node -e 0`: all warm. */
  version() {
    const samples = { node: [], tool: [] };
    this.warmUp();
    for (let i = 0; i < this.runs * SHORT_RUNS; i++) {
      samples.node.push(timed(NODE, ['-e', '0'], this.workDir));
      samples.tool.push(timed(NODE, [TOOL, '--version'], this.workDir));
    }
    const loaded = { version: this.#loaded('--version'), help: this.#loaded('--help') };
    const ratios = pairRatios(samples.tool, samples.node);
    return {
      case: 'version',
      other: 'node -e 0',
      toolSeconds: median(samples.tool.map(({ seconds }) => seconds)),
      otherSeconds: median(samples.node.map(({ seconds }) => seconds)),
      ratio: median(ratios),
      ratios,
      cpuRatio: cpuRatio(samples.tool, samples.node),
      peakBytes: peakOf(samples.tool),
      loaded,
      engineLoaded: engineSources(loaded.version).concat(engineSources(loaded.help)),
    };
  }

  #loaded(option) {
    return loadedModules([TOOL, option], ROOT, this.workDir);
  }

  /** Every side once a round; every other round in reverse order, so that neither always goes first. */
  alternate(name, master, sides, samples, rounds) {
    const names = Object.keys(sides);
    for (let round = 0; round < rounds; round++) {
      for (const side of round % 2 === 0 ? names : [...names].reverse()) {
        if (master !== null) this.prepare(master);
        else makeCold(this.copy, () => this.warmUp());
        const sample = sides[side]();
        samples[side].push(sample);
        this.log(`${name} ${round + 1}/${rounds}: ${side} ${sample.seconds.toFixed(3)} s`);
      }
    }
  }
}

function pairRatios(tool, other) {
  return tool.map(({ seconds }, i) => seconds / other[i].seconds);
}

/** Processor time of the one over that of the other: it hardly feels what else runs on the machine. */
function cpuRatio(tool, other) {
  const cpu = (samples) => median(samples.map(({ cpuSeconds }) => cpuSeconds ?? NaN));
  return cpu(tool) / cpu(other);
}

function peakOf(samples) {
  const peaks = samples.map(({ peakBytes }) => peakBytes ?? NaN);
  return Math.max(...peaks);
}
