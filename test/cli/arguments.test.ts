import { describe, expect, test } from 'vitest';
import {
  joinRepair,
  parseRequest,
  USAGE_STATUS,
  UsageError,
  type RawOptions,
} from '../../src/cli/arguments.js';
import { EXIT_STATUS } from '../../src/errors.js';

function refusal(raw: RawOptions, paths = ['a.qcow2']): string {
  try {
    parseRequest(paths, raw);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  return 'accepted';
}

test('images alone are compacted', () => {
  expect(parseRequest(['a', 'b'], {})).toEqual({
    mode: 'compact',
    paths: ['a', 'b'],
    keepErased: undefined,
    punch: false,
    dropPreallocation: false,
    json: false,
    quiet: false,
    debug: false,
  });
});

test.each([
  [{ eraseOnly: true }, 'erase'],
  [{ eraseOnly: true, keepErased: '5', punch: true }, 'erase'],
  [{ keepErased: '5', punch: true }, 'compact'],
  [{ dryRun: true, keepErased: '5' }, 'plan'],
  [{ check: true }, 'check'],
  [{ check: true, repair: 'leaks' }, 'repair'],
  [{ repair: 'all', keepErased: '5' }, 'compact'],
] as [RawOptions, string][])('%j is a request to %s', (raw, mode) => {
  expect(parseRequest(['a'], raw).mode).toBe(mode);
});

describe('--keep-erased', () => {
  test.each(['0', '1', '007', '1000000'])('takes %s', (text) => {
    expect(parseRequest(['a'], { keepErased: text }).keepErased).toBe(Number(text));
  });

  test.each(['-3', '1.5', 'many', '', ' 1', '0x10', '1e3', '99999999999999999999'])(
    'refuses `%s`',
    (text) => {
      expect(refusal({ keepErased: text })).toBe(
        `\`--keep-erased\` must be a whole number of clusters, 0 or more; got \`${text}\``,
      );
    },
  );
});

describe('contradictions are refused', () => {
  test.each([
    [{ check: true, eraseOnly: true }, '`--check` and `--erase-only` cannot be given together'],
    [{ check: true, dryRun: true }, '`--check` and `--dry-run` cannot be given together'],
    [{ check: true, keepErased: '0' }, '`--check` and `--keep-erased` cannot be given together'],
    [{ check: true, punch: true }, '`--check` and `--punch` cannot be given together'],
    [{ dryRun: true, eraseOnly: true }, '`--dry-run` and `--erase-only` cannot be given together'],
    [{ repair: 'all', dryRun: true }, '`--repair` and `--dry-run` cannot be given together'],
    [{ repair: 'all', eraseOnly: true }, '`--repair` and `--erase-only` cannot be given together'],
    [{ check: true, threshold: '1G' }, '`--check` and `--threshold` cannot be given together'],
    [{ check: true, repair: 'all', threshold: '1G' }, '`--check` and `--threshold` cannot be given together'],
    [{ eraseOnly: true, threshold: '1G' }, '`--erase-only` and `--threshold` cannot be given together'],
    [{ dryRun: true, threshold: '1G' }, '`--dry-run` and `--threshold` cannot be given together'],
    [{ punch: true }, '`--punch` says how to erase: it needs `--erase-only` or `--keep-erased N`'],
  ] as [RawOptions, string][])('%j', (raw, message) => {
    expect(refusal(raw)).toBe(message);
  });
});

test.each([
  ['--repair a', '--repair=all a'],
  ['a --repair', 'a --repair=all'],
  ['--repair leaks a', '--repair=leaks a'],
  ['--check --repair all a', '--check --repair=all a'],
  ['--repair --check a', '--repair=all --check a'],
  ['--repair=leaks all', '--repair=leaks all'],
  ['--repair all leaks', '--repair=all leaks'],
  ['-- --repair leaks', '-- --repair leaks'],
  ['a -- all --repair', 'a -- all --repair'],
])('%s is read as %s', (given, read) => {
  expect(joinRepair(given.split(' '))).toEqual(read.split(' '));
});

test('budgets are numbers of seconds, bytes and images', () => {
  const raw = { jobs: '3', maxTime: '2h', limitRate: '50M', threshold: '10%' };
  const budgets = { jobs: 3, maxTime: 7200, limitRate: 50 * 2 ** 20, threshold: { percent: 10 } };
  expect(parseRequest(['a'], raw)).toMatchObject(budgets);
  expect(parseRequest(['a'], { ...raw, repair: 'all' })).toMatchObject({ ...budgets, repair: 'all' });
});

test.each([
  { check: true },
  { check: true, repair: 'all' },
  { eraseOnly: true },
  { dryRun: true },
] as RawOptions[])('time, rate and jobs are bounded in every mode: %j', (mode) => {
  expect(refusal({ ...mode, jobs: '2', maxTime: '1', limitRate: '1' })).toBe('accepted');
});

test.each([{ jobs: '0' }, { maxTime: 'x' }, { limitRate: 'x' }, { threshold: 'x' }] as RawOptions[])(
  '%j is refused by the name of its option',
  (raw) => {
    const option = {
      jobs: '--jobs',
      maxTime: '--max-time',
      limitRate: '--limit-rate',
      threshold: '--threshold',
    };
    expect(refusal(raw)).toContain(`\`${option[Object.keys(raw)[0] as keyof typeof option]}\` must be`);
  },
);

test('no image is a usage error', () => {
  expect(refusal({}, [])).toContain('no image given');
});

test('an empty name is a usage error', () => {
  expect(refusal({}, ['a', ''])).toBe('an image name is empty');
});

test('the status of a usage error is that of the library', () => {
  expect(USAGE_STATUS).toBe(EXIT_STATUS.USAGE);
});
