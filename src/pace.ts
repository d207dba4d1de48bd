/**
 * Work that finds all it needs in memory never comes to an await that lets the host speak: it has to give way by itself,
 * or the process hears of no client and of no signal meanwhile.
 */

/** At one stretch. */
const MOST_MS = 5;
/** Steps that together are far shorter. */
const STEPS = 1 << 14;

/** All that have given way, in their order: one goes on in each turn of the event loop. */
const waiting: (() => void)[] = [];

/** Of one loop. */
export class Pace {
  #since = performance.now();
  #steps = 0;

  /** It is time to give way. */
  get isOver(): boolean {
    return performance.now() - this.#since > MOST_MS;
  }

  /** The same for loops of steps so short that the clock is looked at after many of them only. */
  get isOverAfterStep(): boolean {
    return ++this.#steps % STEPS === 0 && this.isOver;
  }

  /** The loop has waited for the host. */
  rested(): void {
    this.#since = performance.now();
  }

  async giveWay(): Promise<void> {
    await new Promise<void>((resolve) => {
      if (waiting.push(resolve) === 1) setImmediate(next);
    });
    this.rested();
  }
}

function next(): void {
  waiting.shift()!();
  if (waiting.length > 0) setImmediate(next);
}
