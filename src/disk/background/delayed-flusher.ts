/** One barrier for all that asks for one within a few seconds (recycler contract C56). */
import type { Clock } from '../../device/rate-limiter.js';

export const FLUSH_DELAY_SECONDS = 5;

export class DelayedFlusher {
  readonly #clock: Clock;
  readonly #flush: () => Promise<void>;
  #isStopped = false;
  #running: Promise<void> | null = null;
  #state: 'idle' | 'waiting' | 'flushing' | 'asked again' = 'idle';

  /** `flush` keeps its own failures. */
  constructor(clock: Clock, flush: () => Promise<void>) {
    this.#clock = clock;
    this.#flush = flush;
  }

  /** A request during the barrier may come too late for it: it causes one more. */
  request(): void {
    if (this.#state === 'flushing') this.#state = 'asked again';
    else if (this.#state === 'idle' && !this.#isStopped) this.#running = this.#run();
  }

  /** What waits is given up, and a barrier under way is waited for. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#state === 'flushing' || this.#state === 'asked again') await this.#running;
  }

  async #run(): Promise<void> {
    do {
      this.#state = 'waiting';
      await this.#clock.sleep(FLUSH_DELAY_SECONDS);
      if (this.#isStopped) return;
      this.#state = 'flushing';
      await this.#flush();
    } while (this.#isAskedAgain() && !this.#isStopped);
    this.#state = 'idle';
  }

  #isAskedAgain(): boolean {
    return this.#state === 'asked again';
  }
}
