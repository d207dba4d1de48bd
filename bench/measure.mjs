/** Runs of the tool and of its rivals in alternation, and what their samples say. */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeCold, restore, run, timed } from './host.mjs';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
export const TOOL = path.join(ROOT, 'bin/qcow-compact.js');
export const NODE = process.execPath;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export class Bench {
  constructor(workDir, { runs, warm }, log) {
    this.workDir = workDir;
    this.runs = runs;
    this.warm = warm;
    this.log = log;
    this.copy = this.path('copy.qcow2');
    this.tiny = this.path('tiny.qcow2');
  }

  path(name) {
    return path.join(this.workDir, name);
  }

  async warmUp() {
    if (!fs.existsSync(this.tiny)) await run('qemu-img', ['create', '-q', '-f', 'qcow2', this.tiny, '1M']);
    await run(NODE, ['-e', '0']);
    await run(NODE, [TOOL, '--json', this.tiny]);
    await run('qemu-img', ['info', this.tiny]);
    await run('sh', ['-c', 'true']);
  }

  /** A fresh copy of `master`, all of it on the disk. */
  async restore(master) {
    await restore(master, this.copy);
    if (!this.warm) await run('sync', ['-f', this.copy]);
  }

  /** The same, and nothing of it cached. */
  async prepareCold(master) {
    await restore(master, this.copy);
    await this.makeCold();
  }

  async makeCold() {
    if (!this.warm) await makeCold(this.workDir, () => this.warmUp());
  }

  async timed(command, args) {
    const sample = await timed(command, args, this.workDir);
    delete sample.stdout;
    return sample;
  }

  /** Compacts the copy. */
  async compact() {
    const { sample, results } = await this.compactAll([this.copy]);
    return { ...sample, result: results[0] };
  }

  async compactAll(images, options = []) {
    const args = [TOOL, '--json', ...options, ...images];
    const { stdout, ...sample } = await timed(NODE, args, this.workDir);
    return { sample, results: JSON.parse(stdout).images };
  }

  /** `qemu-img convert` of the copy and a sync of the new file's file system; the new file is removed. */
  async convert(options = []) {
    const target = this.path('converted.qcow2');
    const script = 'in=$1 out=$2; shift 2; qemu-img convert "$@" -O qcow2 "$in" "$out" && sync -f "$out"';
    const sample = await this.timed('sh', ['-c', script, 'sh', this.copy, target, ...options]);
    fs.rmSync(target);
    return sample;
  }

  /** The image is sound and, where `master` is given, reads as that does. */
  async checkResult(image, master = null) {
    const checked = await run('qemu-img', ['check', '--output=json', image], { statuses: [0, 2, 3] });
    const { corruptions = 0, leaks = 0, 'check-errors': errors = 0 } = JSON.parse(checked);
    if (corruptions + leaks + errors > 0) throw new Error(`qemu-img check found faults: ${checked}`);
    if (master !== null) await run('qemu-img', ['compare', '-q', master, image]);
  }

  /** Every side once a round; every other round in reverse order, so that none always goes first. */
  async alternate(name, sides, { rounds = this.runs, prepare }) {
    const names = Object.keys(sides);
    const samples = Object.fromEntries(names.map((side) => [side, []]));
    for (let round = 0; round < rounds; round++) {
      for (const side of round % 2 === 0 ? names : [...names].reverse()) {
        await prepare();
        const sample = await sides[side](samples[side].length);
        samples[side].push(sample);
        this.log(`${name} ${round + 1}/${rounds}: ${side} ${sample.seconds.toFixed(3)} s`);
      }
    }
    return samples;
  }
}

/** The tool's samples against those of a rival, run by run. */
export function against(name, tool, other) {
  const ratios = tool.map(({ seconds }, i) => seconds / other[i].seconds);
  return {
    name,
    seconds: secondsOf(other),
    ratio: median(ratios),
    ratios,
    // It hardly feels what else runs on the machine.
    cpuRatio: cpuSecondsOf(tool) / cpuSecondsOf(other),
    peakBytes: peakOf(other),
  };
}

export function secondsOf(samples) {
  return median(samples.map(({ seconds }) => seconds));
}

function cpuSecondsOf(samples) {
  return median(samples.map(({ cpuSeconds }) => cpuSeconds ?? NaN));
}

export function peakOf(samples) {
  return Math.max(...samples.map(({ peakBytes }) => peakBytes ?? NaN));
}

/** What the tool says of one image that it has compacted, over all runs. */
export function figuresOf(tool) {
  const [first] = tool.map(({ result }) => result);
  const most = (name) => Math.max(...tool.map(({ result }) => result[name]));
  const { lengthBefore, lengthAfter, bytesToCopy, bytesMoved, movesBy, barriers } = first;
  return {
    ...{ lengthBefore, lengthAfter, movesBy, barriers, bytesMoved },
    mustMoveBytes: bytesToCopy,
    bytesWritten: most('bytesWritten'),
    bytesShared: first.bytesShared,
  };
}
