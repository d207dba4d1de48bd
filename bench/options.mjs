/** The command line of the bench. */
import os from 'node:os';
import { parseArgs } from 'node:util';

export const CASE_NAMES = ['half', 'tail', 'clean', 'version'];

const USAGE = `Usage: npm run bench -- [options]

  --dir DIR       work directory, on the file system to measure (default: ${os.tmpdir()})
  --size SIZE     virtual size of the images, e.g. 256M or 4G (default: 4G)
  --runs N        timed runs of each side; the median counts (default: 5)
  --cases A,B     some of ${CASE_NAMES.join(',')} (default: all)
  --keep-blocks   discarded clusters keep their host blocks (default: they are holes, as with discard=unmap)
  --json FILE     also write all figures there
  --help`;

const UNITS = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Ends the process where the command line is wrong or asks for help. */
export function readOptions(argv) {
  try {
    const { values } = parseArgs({
      args: argv,
      options: {
        dir: { type: 'string', default: os.tmpdir() },
        size: { type: 'string', default: '4G' },
        runs: { type: 'string', default: '5' },
        cases: { type: 'string', default: CASE_NAMES.join(',') },
        'keep-blocks': { type: 'boolean', default: false },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) {
      process.stdout.write(`${USAGE}\n`);
      process.exit(0);
    }
    return {
      dir: values.dir,
      sizeBytes: parseSize(values.size),
      runs: parseRuns(values.runs),
      cases: parseCases(values.cases),
      keepBlocks: values['keep-blocks'],
      jsonPath: values.json ?? null,
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

function parseCases(text) {
  const names = text.split(',');
  const unknown = names.filter((name) => !CASE_NAMES.includes(name));
  if (unknown.length > 0) throw new Error(`no such case: ${unknown.join(', ')}`);
  return CASE_NAMES.filter((name) => names.includes(name));
}
