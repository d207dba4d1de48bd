/** Bounds on what callers pass; errors name option, expectation and value. */
import { QcowError } from '../errors.js';
import { DEFAULT_ROUND_BYTES } from '../recycler/rounds.js';
import type { CommonOptions, RepairWhat } from './types.js';

export function requireClusterCount(name: string, value: number | undefined): number | undefined {
  if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) return value;
  throw new QcowError('USAGE', `${name} must be a whole number of clusters, 0 or more; got ${value}`);
}

/** Says nothing of its value. */
export function requireSecret(value: unknown): void {
  if (value === undefined || typeof value === 'string' || value instanceof Uint8Array) return;
  throw new QcowError('USAGE', `secret must be text or bytes; got ${typeof value}`);
}

export function requireBytes(name: string, value: number | undefined): number | undefined {
  if (value === undefined || (Number.isSafeInteger(value) && value >= 1)) return value;
  throw new QcowError('USAGE', `${name} must be a whole number of bytes, 1 or more; got ${value}`);
}

/** Most bytes that are in two places at once: what a rate allows in little time, where there is one. */
export function roundBytesOf(
  { roundBytes, limiter }: CommonOptions & { roundBytes?: number },
  otherwise = DEFAULT_ROUND_BYTES,
): number {
  return roundBytes ?? Math.min(otherwise, limiter?.roundBytes ?? Infinity);
}

export function requireRepairWhat(value: RepairWhat | undefined): void {
  if (value === undefined || value === 'leaks' || value === 'all') return;
  throw new QcowError('USAGE', `what to repair must be \`leaks\` or \`all\`; got ${String(value)}`);
}
