/** At most so many bytes a second, for all devices that share the limiter: one bucket for reads and one for writes. */
import { QcowError } from '../errors.js';

/**
 * What has not been used for so long is lost. Reads and writes of a copy take turns: with less, neither would get what
 * it may have.
 */
const BURST_SECONDS = 0.5;

/** So long a round takes at the limit, for a stop to come soon. */
const ROUND_SECONDS = 2;
/** Rounds of less would be more barriers than bytes. */
const LEAST_ROUND_BYTES = 1 << 20;

/** Waits look this often whether they are still wanted. */
const LOOK_SECONDS = 0.25;

export interface Clock {
  /** Seconds of a monotonic clock. */
  now: () => number;
  sleep: (seconds: number) => Promise<void>;
}

const REAL_CLOCK: Clock = {
  // Not performance.now(): that loads all of perf_hooks, 3 ms of a start.
  now: () => process.uptime(),
  sleep: (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000)),
};

export type Direction = 'read' | 'write';

export class RateLimiter {
  readonly bytesPerSecond: number;
  /** Bytes that may be in two places at once. */
  readonly roundBytes: number;
  readonly #clock: Clock;
  /** When all that was granted so far is paid for. */
  readonly #paidAt: Record<Direction, number>;

  /**
   * `bytesPerSecond`: that many may be read and that many written. `sharedBy`: images that are worked on at the same
   * time, each of which then has a part of it.
   */
  constructor(bytesPerSecond: number, { sharedBy = 1, clock = REAL_CLOCK }: LimiterOptions = {}) {
    if (!Number.isSafeInteger(bytesPerSecond) || bytesPerSecond < 1)
      throw new QcowError('USAGE', `a rate must be whole bytes a second, 1 or more; got ${bytesPerSecond}`);
    this.bytesPerSecond = bytesPerSecond;
    this.roundBytes = Math.max(
      LEAST_ROUND_BYTES,
      Math.floor((bytesPerSecond * ROUND_SECONDS) / Math.max(1, sharedBy)),
    );
    this.#clock = clock;
    this.#paidAt = { read: clock.now(), write: clock.now() };
  }

  /**
   * Waits until `bytes` more may pass: by any time, what has passed is at most the rate times the time, and the burst.
   * They pass in the order in which they ask. Ends early once `hurries` says so.
   */
  async take(direction: Direction, bytes: number, hurries: () => boolean = () => false): Promise<void> {
    const { now, sleep } = this.#clock;
    const from = Math.max(this.#paidAt[direction], now() - BURST_SECONDS);
    const due = from + bytes / this.bytesPerSecond;
    this.#paidAt[direction] = due;
    for (let left = due - now(); left > 0 && !hurries(); left = due - now()) {
      await sleep(Math.min(left, LOOK_SECONDS));
    }
  }
}

export interface LimiterOptions {
  sharedBy?: number;
  /** For tests. */
  clock?: Clock;
}
