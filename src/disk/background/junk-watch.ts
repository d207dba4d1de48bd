/**
 * Compaction waits for the amount of junk to hold still, since a trim that goes on would free what is about to be copied
 * (recycler contract C54); but not for ever.
 */
export const POLL_SECONDS = 5;
/** Polls after which it begins in any case. */
export const MOST_POLLS = 6;

export class JunkWatch {
  #lastPoll: { at: number; junk: number } | null = null;
  #polls = 0;
  #isStable = false;

  /** `now`: seconds. True once two polls agree, or after so many; and from then on, since it may not be its turn. */
  isStable(now: number, junk: number): boolean {
    if (this.#isStable) return true;
    const last = this.#lastPoll;
    if (last !== null && now - last.at < POLL_SECONDS) return false;
    this.#polls++;
    this.#isStable = last?.junk === junk || this.#polls > MOST_POLLS;
    this.#lastPoll = { at: now, junk };
    return this.#isStable;
  }

  /** Seconds until the next poll. */
  left(now: number): number {
    return this.#lastPoll === null ? 0 : Math.max(0, this.#lastPoll.at + POLL_SECONDS - now);
  }

  reset(): void {
    this.#lastPoll = null;
    this.#polls = 0;
    this.#isStable = false;
  }
}
