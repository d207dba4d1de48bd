/** Gives an image of any kind to the engine, and says whether it broke a promise. */
import { compactDevice } from '../../src/compactor/compact.js';
import type { CompactResult } from '../../src/compactor/types.js';
import { beginSession } from '../../src/compactor/session.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { QcowError } from '../../src/errors.js';
import type { Findings } from '../../src/image/walk.js';
import { compareGuestView, guestView, inspect } from '../support/oracle.js';
import { measureAllocations } from './allocations.js';

export const MAX_SECONDS = 5;
export const MAX_ALLOCATED_BYTES = 300 * 2 ** 20;

export type Engine = (
  device: MemoryDevice,
  options: { runtimeAsserts?: boolean; secret?: string },
) => Promise<CompactResult>;

export interface Verdict {
  readonly outcome: 'refused' | 'compacted';
  /** The engine’s own words, of a refusal. */
  readonly message: string | null;
  /** What is wrong with what it did; null where nothing is. */
  readonly flaw: string | null;
}

/**
 * Compacts `bytes` twice: refused and untouched, or the guest sees the same, no corruption, no leak. `secret`: of the
 * valid image that it was.
 */
export async function judge(
  bytes: Uint8Array,
  { engine = compactDevice, secret }: { engine?: Engine; secret?: string | undefined } = {},
): Promise<Verdict> {
  const unlocking = secret === undefined ? {} : { secret };
  const device = new MemoryDevice(bytes);
  const start = performance.now();
  const { allocated, result } = await measureAllocations(() => attempt(engine, device, unlocking));
  const seconds = (performance.now() - start) / 1000;
  const verdict = (flaw: string | null): Verdict => ({
    outcome: result === null ? 'compacted' : 'refused',
    message: result === null ? null : inWords(result),
    flaw,
  });
  if (seconds > MAX_SECONDS) return verdict(`it took ${seconds.toFixed(1)} s`);
  if (allocated > MAX_ALLOCATED_BYTES) return verdict(`it allocated ${allocated} bytes`);
  if (result === null) return verdict(await flawOfResult(engine, bytes, device, unlocking));
  if (!(result instanceof QcowError)) {
    return verdict(`it threw ${inWords(result)}`);
  }
  if (/[\n\r]|undefined|NaN|\[object|Infinity/.test(result.message))
    return verdict(`it said: ${result.message}`);
  if (!Buffer.from(device.bytes()).equals(bytes)) return verdict('it was refused, but changed');
  return verdict(null);
}

function inWords(error: unknown): string {
  if (error instanceof QcowError) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : `a ${typeof error}`;
}

/** What it was refused with; null when it was compacted. */
async function attempt(
  engine: Engine,
  device: MemoryDevice,
  unlocking: { secret?: string },
): Promise<unknown> {
  try {
    await engine(device, { runtimeAsserts: true, ...unlocking });
    return null;
  } catch (error) {
    return error;
  }
}

async function flawOfResult(
  engine: Engine,
  before: Uint8Array,
  device: MemoryDevice,
  unlocking: { secret?: string },
): Promise<string | null> {
  const { corruptions } = inspect(before);
  if (corruptions.length > 0) return `it compacted a damaged image: ${corruptions[0]}`;
  const compacted = device.bytes();
  const after = inspect(compacted);
  if (after.corruptions.length > 0) return `corrupt: ${after.corruptions[0]}`;
  const difference = compareGuestView(guestView(before), compacted);
  if (difference !== null) return `the guest view changed: ${difference}`;
  if (after.staleRefcountsPastEnd > 0) return `${after.staleRefcountsPastEnd} refcounts past the end`;
  if (after.clusterCount > inspect(before).clusterCount) return 'the file has more clusters than before';
  const again = await engine(device, unlocking);
  if (again.outcome !== 'clean') return `the second run is ${again.outcome}, not clean`;
  return null;
}

/** What our check counts and says; words alone where the image was refused before that. */
export async function ourCheck(bytes: Uint8Array): Promise<Findings | string> {
  try {
    return (await beginSession(new MemoryDevice(bytes), {})).walked.findings;
  } catch (error) {
    if (error instanceof QcowError) return error.message;
    throw error;
  }
}
