/** Copies give way to clients: at most so many bytes a second while they are at work, as many as the host can do else. */
import { type Clock, RateLimiter } from '../../device/rate-limiter.js';

/** So long after its last request a client is still at work. */
const REST_SECONDS = 0.25;

export class Throttle {
  readonly #limiter: RateLimiter;
  readonly #clock: Clock;
  readonly #requests: () => number;
  #lastRequest = -Infinity;

  /** `requests`: how many of clients are under way. */
  constructor(bytesPerSecond: number, clock: Clock, requests: () => number) {
    this.#limiter = new RateLimiter(bytesPerSecond, { clock });
    this.#clock = clock;
    this.#requests = requests;
  }

  /** A client asks for something. */
  note(): void {
    this.#lastRequest = this.#clock.now();
  }

  /** Clients are at work. */
  get isBusy(): boolean {
    return this.#requests() > 0 || this.#clock.now() - this.#lastRequest < REST_SECONDS;
  }

  /** Waits until `bytes` may be copied; no longer once `hurries` says so. */
  async pass(bytes: number, hurries: () => boolean): Promise<void> {
    // At rest nothing is counted: else it would have to be paid for later.
    if (!this.isBusy) return;
    await this.#limiter.take('write', bytes, () => hurries() || !this.isBusy);
  }
}
