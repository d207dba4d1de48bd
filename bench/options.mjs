/** The command line of the bench. */
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { CASE_NAMES } from './cases/index.mjs';
import { FILE_SYSTEM_NAMES } from './file-systems.mjs';
import { ROOT } from './measure.mjs';
import { SWEEP_NAMES } from './scaling.mjs';

const DOCS = path.join(ROOT, 'docs');

const USAGE = `Usage: npm run bench -- [options]

  --dir DIR             work directory, on the file system to measure (default: ${os.tmpdir()})
  --file-systems A,B    measure on each of ${FILE_SYSTEM_NAMES.join(',')}, made in --dir for the purpose (root only)
  --size SIZE           virtual size of the images, e.g. 256M or 4G (default: 4G)
  --runs N              timed runs of each side; the median counts (default: 5)
  --cases A,B           some of ${CASE_NAMES.join(',')} (default: all)
  --keep-blocks         discarded clusters keep their host blocks (default: they are holes, as with discard=unmap)
  --warm                no cold caches and no waiting for the disk before each run: to try things out
  --json FILE           also write all figures there
  --scaling             measure how time and memory grow, and draw the charts of docs/performance.md
  --sweeps A,B          some of ${SWEEP_NAMES.join(',')} (default: all)
  --charts DIR          where --scaling writes them (default: docs)
  --help`;

/** A thirty-second part of it moves in the sparse images, in pieces of 1 MiB. */
const LEAST_FOR_SCALING = 2 ** 25;

const UNITS = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Ends the process where the command line is wrong or asks for help. */
export function readOptions(argv) {
  try {
    const { values } = parseArgs({
      args: argv,
      options: {
        dir: { type: 'string', default: os.tmpdir() },
        'file-systems': { type: 'string', default: '' },
        size: { type: 'string', default: '4G' },
        runs: { type: 'string', default: '5' },
        cases: { type: 'string', default: CASE_NAMES.join(',') },
        'keep-blocks': { type: 'boolean', default: false },
        json: { type: 'string' },
        warm: { type: 'boolean', default: false },
        sweeps: { type: 'string', default: SWEEP_NAMES.join(',') },
        scaling: { type: 'boolean', default: false },
        charts: { type: 'string', default: DOCS },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) {
      process.stdout.write(`${USAGE}\n`);
      process.exit(0);
    }
    const fileSystems = parseNames('file system', values['file-systems'], FILE_SYSTEM_NAMES);
    if (values.scaling && fileSystems.length > 1) throw new Error('--scaling is for one file system');
    const sizeBytes = parseSize(values.size);
    if (values.scaling && sizeBytes < LEAST_FOR_SCALING)
      throw new Error('--scaling takes a --size of 32M or more');
    return {
      dir: values.dir,
      fileSystems,
      sizeBytes,
      runs: parseRuns(values.runs),
      cases: parseNames('case', values.cases, CASE_NAMES),
      keepBlocks: values['keep-blocks'],
      jsonPath: values.json ?? null,
      warm: values.warm,
      scaling: values.scaling,
      sweeps: parseNames('sweep', values.sweeps, SWEEP_NAMES),
      charts: values.charts,
    };
  } catch (error) {
    process.stderr.write(`bench: ${error.message}\n\n${USAGE}\n`);
    process.exit(64);
  }
}

function parseSize(text) {
  const match = /^(\d+)([KMGT])?$/i.exec(text);
  const bytes = match === null ? NaN : Number(match[1]) * (UNITS[match[2]?.toUpperCase()] ?? 1);
  if (!Number.isSafeInteger(bytes) || bytes < 2 ** 23 || bytes % 2 ** 20 !== 0) {
    throw new Error(`--size must be whole MiB, 8M or more; got ${text}`);
  }
  return bytes;
}

function parseRuns(text) {
  const runs = /^\d+$/.test(text) ? Number(text) : 0;
  if (runs < 1) throw new Error(`--runs must be a whole number, 1 or more; got ${text}`);
  return runs;
}

/** Those of `known` that are named, in its order. */
function parseNames(what, text, known) {
  const names = text === '' ? [] : text.split(',');
  const unknown = names.filter((name) => !known.includes(name));
  if (unknown.length > 0) throw new Error(`no such ${what}: ${unknown.join(', ')}`);
  return known.filter((name) => names.includes(name));
}
