/** What the command line asks for, checked: contradictions and bad values end here, before any image is opened. */
import type { Threshold } from '../compactor/threshold.js';
import { parseCount, parseDuration, parseRate, parseThreshold } from './quantities.js';
import { UsageError } from './usage-error.js';

export { USAGE_STATUS, UsageError } from './usage-error.js';

/** What `--repair` takes; alone it means `all`. */
export const REPAIR_CHOICES = ['leaks', 'all'] as const;
type RepairWhat = (typeof REPAIR_CHOICES)[number];

/**
 * `--repair` as `--repair=all`, and with its word as one argument: an option whose value is optional would take the
 * image that follows it for the value. What comes after `--` is left alone.
 */
export function joinRepair(argv: readonly string[]): string[] {
  const joined: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i]!;
    if (argument === '--') return [...joined, ...argv.slice(i)];
    if (argument !== '--repair') joined.push(argument);
    else if (REPAIR_CHOICES.some((choice) => choice === argv[i + 1])) joined.push(`--repair=${argv[++i]!}`);
    else joined.push('--repair=all');
  }
  return joined;
}

export type Mode = 'compact' | 'erase' | 'plan' | 'check' | 'repair';

/** As commander hands them over. */
export interface RawOptions {
  eraseOnly?: boolean;
  keepErased?: string;
  punch?: boolean;
  dropPreallocation?: boolean;
  dryRun?: boolean;
  check?: boolean;
  repair?: RepairWhat;
  secretFile?: string;
  jobs?: string;
  maxTime?: string;
  limitRate?: string;
  threshold?: string;
  json?: boolean;
  quiet?: boolean;
  debug?: boolean;
}

export interface Request {
  mode: Mode;
  paths: string[];
  /** Clusters; undefined where the option was not given. */
  keepErased: number | undefined;
  punch: boolean;
  dropPreallocation: boolean;
  secretFile: string | undefined;
  /** Images at the same time; undefined: one on each file system. */
  jobs: number | undefined;
  /** Seconds for the whole command. */
  maxTime: number | undefined;
  /** Bytes a second, read and written each, for all images together. */
  limitRate: number | undefined;
  threshold: Threshold | undefined;
  /** With `compact`: what is repaired first; undefined where the option was not given. */
  repair: RepairWhat | undefined;
  json: boolean;
  quiet: boolean;
  debug: boolean;
}

/** Each pair cannot be given together. */
const CONTRADICTIONS: [keyof RawOptions, keyof RawOptions][] = [
  ['check', 'dryRun'],
  ['check', 'eraseOnly'],
  ['check', 'keepErased'],
  ['check', 'punch'],
  ['check', 'dropPreallocation'],
  ['check', 'threshold'],
  ['eraseOnly', 'dropPreallocation'],
  ['eraseOnly', 'threshold'],
  ['dryRun', 'eraseOnly'],
  ['dryRun', 'threshold'],
  ['repair', 'dryRun'],
  ['repair', 'eraseOnly'],
];

const FLAG: Record<keyof RawOptions, string> = {
  eraseOnly: '--erase-only',
  keepErased: '--keep-erased',
  punch: '--punch',
  dropPreallocation: '--drop-preallocation',
  dryRun: '--dry-run',
  check: '--check',
  repair: '--repair',
  secretFile: '--secret-file',
  jobs: '--jobs',
  maxTime: '--max-time',
  limitRate: '--limit-rate',
  threshold: '--threshold',
  json: '--json',
  quiet: '--quiet',
  debug: '--debug',
};

/** Throws UsageError. */
export function parseRequest(paths: string[], raw: RawOptions): Request {
  if (paths.length === 0) {
    throw new UsageError('no image given; usage: `qcow-compact [options] IMAGE...`, see `--help`');
  }
  if (paths.includes('')) throw new UsageError('an image name is empty');
  for (const [one, other] of CONTRADICTIONS) {
    if (isGiven(raw[one]) && isGiven(raw[other])) {
      throw new UsageError(`\`${FLAG[one]}\` and \`${FLAG[other]}\` cannot be given together`);
    }
  }
  if (raw.punch === true && raw.eraseOnly !== true && raw.keepErased === undefined) {
    throw new UsageError('`--punch` says how to erase: it needs `--erase-only` or `--keep-erased N`');
  }
  return {
    mode: modeOf(raw),
    paths,
    keepErased: parsed(raw, 'keepErased', (option, text) => parseCount(option, text, 'clusters', 0)),
    punch: raw.punch === true,
    dropPreallocation: raw.dropPreallocation === true,
    repair: raw.repair,
    secretFile: raw.secretFile,
    jobs: parsed(raw, 'jobs', (option, text) => parseCount(option, text, 'images', 1)),
    maxTime: parsed(raw, 'maxTime', parseDuration),
    limitRate: parsed(raw, 'limitRate', parseRate),
    threshold: parsed(raw, 'threshold', parseThreshold),
    json: raw.json === true,
    quiet: raw.quiet === true,
    debug: raw.debug === true,
  };
}

function isGiven(value: string | boolean | undefined): boolean {
  return value !== undefined && value !== false;
}

function modeOf(raw: RawOptions): Mode {
  if (raw.check === true) return raw.repair === undefined ? 'check' : 'repair';
  if (raw.dryRun === true) return 'plan';
  return raw.eraseOnly === true ? 'erase' : 'compact';
}

type Amount = 'keepErased' | 'jobs' | 'maxTime' | 'limitRate' | 'threshold';

/** The value of an option by `parse`, which takes its flag too; undefined where it was not given. */
function parsed<Value>(
  raw: RawOptions,
  name: Amount,
  parse: (option: string, text: string) => Value,
): Value | undefined {
  const text = raw[name];
  return text === undefined ? undefined : parse(FLAG[name], text);
}
