import { describe, expect, test } from 'vitest';
import { parseCount, parseDuration, parseRate, parseThreshold } from '../../src/cli/quantities.js';
import { UsageError } from '../../src/cli/usage-error.js';

describe('a time', () => {
  test.each([
    ['90', 90],
    ['90s', 90],
    ['30m', 1800],
    ['2h', 7200],
    ['1.5h', 5400],
    ['1d', 86400],
    ['24d', 24 * 86400],
    ['0.5', 0.5],
  ])('%s is %d seconds', (text, seconds) => {
    expect(parseDuration('--max-time', text)).toBe(seconds);
  });

  // Timers of Node end at once where more milliseconds are asked for than 31 bits hold.
  test.each(['', '0', '0s', '-1', '2 h', 'h', '2x', '2hh', '2H', '1e3', '25d', 'Infinity', '.5', '1.'])(
    '`%s` is refused',
    (text) => {
      expect(() => parseDuration('--max-time', text)).toThrow(UsageError);
      expect(() => parseDuration('--max-time', text)).toThrow(
        `\`--max-time\` must be a time of at most 24 days, such as \`2h\` (s, m, h or d; seconds without); got \`${text}\``,
      );
    },
  );
});

describe('a rate', () => {
  test.each([
    ['1', 1],
    ['4096', 4096],
    ['50K', 50 * 2 ** 10],
    ['50M', 50 * 2 ** 20],
    ['1.5g', 1.5 * 2 ** 30],
    ['1T', 2 ** 40],
  ])('%s is %d bytes a second', (text, rate) => {
    expect(parseRate('--limit-rate', text)).toBe(rate);
  });

  test.each(['', '0', '0.1', '-5', '50MB', '50 M', '50%', 'M', 'fast', '99999999T'])(
    '`%s` is refused',
    (text) => {
      expect(() => parseRate('--limit-rate', text)).toThrow(
        `\`--limit-rate\` must be bytes a second, 1 or more, such as \`50M\` (K, M and G are binary); got \`${text}\``,
      );
    },
  );
});

describe('a threshold', () => {
  test.each([
    ['10%', { percent: 10 }],
    ['0.5%', { percent: 0.5 }],
    ['0%', { percent: 0 }],
    ['100%', { percent: 100 }],
    ['1G', { bytes: 2 ** 30 }],
    ['0', { bytes: 0 }],
    ['512', { bytes: 512 }],
  ])('%s is %j', (text, threshold) => {
    expect(parseThreshold('--threshold', text)).toEqual(threshold);
  });

  test.each(['', '%', '101%', '-1%', '1G%', '10 %', '10%%', 'G', '-1'])('`%s` is refused', (text) => {
    expect(() => parseThreshold('--threshold', text)).toThrow(
      `\`--threshold\` must be a share of the file or bytes, such as \`10%\` or \`1G\` (K, M and G are binary); got \`${text}\``,
    );
  });
});

test.each(['0', '-1', '1.5', '', 'many', '2x'])('`%s` images at the same time are refused', (text) => {
  expect(() => parseCount('--jobs', text, 'images', 1)).toThrow(
    `\`--jobs\` must be a whole number of images, 1 or more; got \`${text}\``,
  );
});
