/** What a user says of the work in the background, checked and in clusters. */
import type { Clock } from '../../device/rate-limiter.js';
import { QcowError } from '../../errors.js';
import { DEFAULT_ROUND_BYTES } from '../../recycler/rounds.js';

export interface BackgroundSettings {
  /** Clusters that are kept ready for new data, zeroed, as far as there is junk: writes need not wait for them. Default 0. */
  keepErased?: number;
  /** The disk is compacted whenever it has more bytes of junk than this. Without it, and with 0, only by `compactNow`. */
  compactAfterBytes?: number;
  /** Bytes that the compaction may copy a second while clients are at work; default 32 MiB. At rest there is no limit. */
  backgroundBytesPerSecond?: number;
}

/** For tests. */
export interface BackgroundTuning {
  clock?: Clock;
  /** Bytes of a round at most. */
  roundBytes?: number;
}

const DEFAULT_BYTES_PER_SECOND = 32 << 20;
/** Seconds that a round takes at the limit: while it goes on, clients cancel what they write to. */
const ROUND_SECONDS = 4;
const LEAST_ROUND_BYTES = 1 << 20;

/** Longer waits do not keep a process alive. */
export const LIVE_CLOCK: Clock = {
  now: () => process.uptime(),
  sleep: (seconds) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      if (seconds >= 1) timer.unref();
    }),
};

export interface BackgroundPlan {
  keepErased: number;
  /** Clusters of junk; null: never. */
  compactAfter: number | null;
  bytesPerSecond: number;
  roundBytes: number;
  clock: Clock;
}

export function backgroundPlan(
  settings: BackgroundSettings & BackgroundTuning,
  clusterBytes: number,
): BackgroundPlan {
  const keepErased = wholeNumber('keepErased', 'clusters', settings.keepErased ?? 0, 0);
  const after = wholeNumber('compactAfterBytes', 'bytes', settings.compactAfterBytes ?? 0, 0);
  const rate = settings.backgroundBytesPerSecond ?? DEFAULT_BYTES_PER_SECOND;
  const bytesPerSecond = wholeNumber('backgroundBytesPerSecond', 'bytes', rate, 1);
  const perRound = Math.max(LEAST_ROUND_BYTES, bytesPerSecond * ROUND_SECONDS);
  return {
    keepErased,
    compactAfter: after === 0 ? null : Math.floor(after / clusterBytes),
    bytesPerSecond,
    roundBytes: settings.roundBytes ?? Math.min(DEFAULT_ROUND_BYTES, perRound),
    clock: settings.clock ?? LIVE_CLOCK,
  };
}

function wholeNumber(name: string, unit: string, value: number, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new QcowError('USAGE', `${name} must be a whole number of ${unit}, ${least} or more; got ${value}`);
}
