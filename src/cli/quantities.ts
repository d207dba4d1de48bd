/** Amounts on the command line: `50M`, `2h`, `10%`. Errors name option, expectation and value. */
import type { Threshold } from '../compactor/threshold.js';
import { UsageError } from './usage-error.js';

const BYTE_UNITS: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };
const SECOND_UNITS: Record<string, number> = { '': 1, s: 1, m: 60, h: 3600, d: 86400 };

/** Timers of Node reach no further: 24 days. */
const MOST_SECONDS = Math.floor((2 ** 31 - 1) / 1000);

/** `50M`, `1.5G`, `4096`: a whole number of bytes once multiplied; NaN for anything else. */
function bytesOf(text: string): number {
  const bytes = Math.round(amountOf(text.toUpperCase(), BYTE_UNITS));
  return Number.isSafeInteger(bytes) ? bytes : NaN;
}

function amountOf(text: string, units: Record<string, number>): number {
  const [, number, unit] = /^([0-9]+(?:\.[0-9]+)?)([A-Za-z]?)$/.exec(text) ?? [];
  const factor = unit === undefined ? undefined : units[unit];
  return factor === undefined ? NaN : Number(number) * factor;
}

export function parseBytes(option: string, text: string): number {
  const bytes = bytesOf(text);
  if (bytes >= 0) return bytes;
  throw new UsageError(
    `\`${option}\` must be bytes, such as \`64M\` (K, M and G are binary); got \`${text}\``,
  );
}

/** Bytes a second. */
export function parseRate(option: string, text: string): number {
  const rate = bytesOf(text);
  if (rate >= 1) return rate;
  throw new UsageError(
    `\`${option}\` must be bytes a second, 1 or more, such as \`50M\` (K, M and G are binary); got \`${text}\``,
  );
}

/** Seconds. */
export function parseDuration(option: string, text: string): number {
  const seconds = amountOf(text, SECOND_UNITS);
  if (seconds > 0 && seconds <= MOST_SECONDS) return seconds;
  throw new UsageError(
    `\`${option}\` must be a time of at most 24 days, such as \`2h\` (s, m, h or d; seconds without); got \`${text}\``,
  );
}

export function parseThreshold(option: string, text: string): Threshold {
  const percent = text.endsWith('%') ? amountOf(text.slice(0, -1), { '': 1 }) : NaN;
  if (percent <= 100) return { percent };
  const bytes = bytesOf(text);
  if (bytes >= 0) return { bytes };
  throw new UsageError(
    `\`${option}\` must be a share of the file or bytes, such as \`10%\` or \`1G\` (K, M and G are binary); got \`${text}\``,
  );
}

export function parseCount(option: string, text: string, what: string, least: number): number {
  const count = /^[0-9]+$/.test(text) ? Number(text) : NaN;
  if (Number.isSafeInteger(count) && count >= least) return count;
  throw new UsageError(`\`${option}\` must be a whole number of ${what}, ${least} or more; got \`${text}\``);
}
