/**
 * Locks on ranges of host clusters, and a mutex. Order: metadata lock, then flush mutex, then cluster locks;
 * nobody waits for one of the former while holding a cluster lock (C66).
 */

interface Held {
  first: number;
  end: number;
  exclusive: boolean;
}

interface Waiting extends Held {
  grant: (release: () => void) => void;
}

/** Shared and exclusive locks on [first, first + count). Few are held at a time, so a list serves. */
export class RangeLocks {
  readonly #held = new Set<Held>();
  /** First come, first served: a waiting writer is not overtaken by readers that come later (W17). */
  #waiting: Waiting[] = [];

  get heldCount(): number {
    return this.#held.size;
  }

  shared(first: number, count: number): Promise<() => void> {
    return this.#acquire({ first, end: first + count, exclusive: false });
  }

  exclusive(first: number, count: number): Promise<() => void> {
    return this.#acquire({ first, end: first + count, exclusive: true });
  }

  /** The exclusive lock, or null at once where somebody holds a part of it or waits for it (C35). */
  tryExclusive(first: number, count: number): (() => void) | null {
    const wanted = { first, end: first + count, exclusive: true };
    return this.#conflicts(wanted, this.#waiting) ? null : this.#hold(wanted);
  }

  #acquire(wanted: Held): Promise<() => void> {
    if (!this.#conflicts(wanted, this.#waiting)) return Promise.resolve(this.#hold(wanted));
    return new Promise((grant) => this.#waiting.push({ ...wanted, grant }));
  }

  #conflicts(wanted: Held, ahead: readonly Held[]): boolean {
    const against = (other: Held) =>
      other.first < wanted.end && wanted.first < other.end && (other.exclusive || wanted.exclusive);
    for (const held of this.#held) if (against(held)) return true;
    return ahead.some(against);
  }

  #hold(wanted: Held): () => void {
    const held = { first: wanted.first, end: wanted.end, exclusive: wanted.exclusive };
    this.#held.add(held);
    return () => {
      if (this.#held.delete(held)) this.#grantWaiting();
    };
  }

  #grantWaiting(): void {
    const still: Waiting[] = [];
    for (const waiting of this.#waiting) {
      if (this.#conflicts(waiting, still)) still.push(waiting);
      else waiting.grant(this.#hold(waiting));
    }
    this.#waiting = still;
  }
}

/** One at a time, in order of arrival. */
export class Mutex {
  #tail: Promise<void> = Promise.resolve();
  #depth = 0;

  get busy(): boolean {
    return this.#depth > 0;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#tail;
    let done: () => void = () => undefined;
    this.#tail = new Promise((resolve) => (done = resolve));
    this.#depth++;
    await before;
    try {
      return await work();
    } finally {
      this.#depth--;
      done();
    }
  }
}
