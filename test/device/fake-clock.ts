/** A clock that stands still until everything waits for it, so that time passes at once. */
import type { Clock } from '../../src/device/rate-limiter.js';

export class FakeClock implements Clock {
  #now = 1000;
  #sleepers: { at: number; wake: () => void }[] = [];
  #isTicking = false;

  now = (): number => this.#now;

  sleep = (seconds: number): Promise<void> =>
    new Promise((wake) => {
      this.#sleepers.push({ at: this.#now + seconds, wake });
      if (this.#isTicking) return;
      this.#isTicking = true;
      setImmediate(() => this.#tick());
    });

  /** Wakes the first ones; by then nothing else is left to do. */
  #tick(): void {
    this.#isTicking = false;
    const next = Math.min(...this.#sleepers.map(({ at }) => at));
    const due = this.#sleepers.filter(({ at }) => at === next);
    this.#sleepers = this.#sleepers.filter(({ at }) => at !== next);
    this.#now = next;
    for (const { wake } of due) wake();
    if (this.#sleepers.length === 0) return;
    this.#isTicking = true;
    setImmediate(() => this.#tick());
  }
}
