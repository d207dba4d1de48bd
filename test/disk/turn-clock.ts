/** A clock by turns of the event queue: time passes at once, while others are at work, and the same for a seed. */
import type { Clock } from '../../src/device/rate-limiter.js';
import { Random } from '../support/random.js';

const MOST_TURNS = 60;

export class TurnClock implements Clock {
  readonly #random: Random;
  #now = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  now = (): number => this.#now;

  sleep = async (seconds: number): Promise<void> => {
    const until = this.#now + seconds;
    // Some of what others wait for comes from outside of the queue.
    if (this.#random.chance(0.2)) await new Promise((resolve) => setImmediate(resolve));
    for (let turns = 1 + this.#random.int(MOST_TURNS); turns > 0; turns--) await Promise.resolve();
    this.#now = Math.max(this.#now, until);
  };
}
