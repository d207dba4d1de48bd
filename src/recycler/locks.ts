/**
 * Locks on ranges of host clusters, and a mutex. Order: metadata lock, then flush mutex, then cluster locks, a
 * table before what it leads to; nobody waits for one of the former while holding one of the latter (C66).
 */

/**
 * What a holder does with its range. A client that reads or overwrites data in place disturbs no other client, so
 * that neighbours in one cluster do not wait for each other; a copy needs the range to hold still, but may be read
 * meanwhile; who changes what a place is used for needs it alone.
 */
export const Access = {
  /** Reads data, or goes through a table to the data behind it. */
  passing: 0,
  /** Writes data in place, or changes entries of a table. */
  changing: 1,
  /** Copies: nothing changes meanwhile. */
  shared: 2,
  exclusive: 3,
} as const;
export type Access = (typeof Access)[keyof typeof Access];

/** By access, those that go along with it, as bits. */
const COMPATIBLE = [0b0111, 0b0011, 0b0101, 0b0000] as const;

interface Held {
  first: number;
  end: number;
  access: Access;
}

interface Waiting extends Held {
  grant: (release: () => void) => void;
}

/** Locks on [first, first + count). Few are held at a time, so a list serves. */
export class RangeLocks {
  readonly #held = new Set<Held>();
  /** First come, first served: a waiting writer is not overtaken by readers that come later (W17). */
  #waiting: Waiting[] = [];

  get heldCount(): number {
    return this.#held.size;
  }

  shared(first: number, count: number): Promise<() => void> {
    return this.lock(first, count, Access.shared);
  }

  exclusive(first: number, count: number): Promise<() => void> {
    return this.lock(first, count, Access.exclusive);
  }

  /** The exclusive lock, or null at once where somebody holds a part of it or waits for it (C35). */
  tryExclusive(first: number, count: number): (() => void) | null {
    return this.tryLock(first, count, Access.exclusive);
  }

  lock(first: number, count: number, access: Access): Promise<() => void> {
    const release = this.tryLock(first, count, access);
    if (release !== null) return Promise.resolve(release);
    return new Promise((grant) => this.#waiting.push({ first, end: first + count, access, grant }));
  }

  /** The lock, or null where it is not there by the time that `tooLate` is settled. Those that come later wait for it. */
  async lockUntil(
    first: number,
    count: number,
    access: Access,
    tooLate: Promise<void>,
  ): Promise<(() => void) | null> {
    const free = this.tryLock(first, count, access);
    if (free !== null) return free;
    return new Promise((settle) => {
      const waiting = { first, end: first + count, access, grant: settle };
      this.#waiting.push(waiting);
      void tooLate.then(() => {
        if (!this.#waiting.includes(waiting)) return;
        this.#waiting = this.#waiting.filter((other) => other !== waiting);
        this.#grantWaiting();
        settle(null);
      });
    });
  }

  /** The lock, or null at once where it would have to wait. */
  tryLock(first: number, count: number, access: Access): (() => void) | null {
    const wanted = { first, end: first + count, access };
    return this.#conflicts(wanted, this.#waiting) ? null : this.#hold(wanted);
  }

  #conflicts(wanted: Held, ahead: readonly Held[]): boolean {
    for (const held of this.#held) if (conflict(held, wanted)) return true;
    for (const waiting of ahead) if (conflict(waiting, wanted)) return true;
    return false;
  }

  #hold(held: Held): () => void {
    this.#held.add(held);
    return () => {
      if (this.#held.delete(held) && this.#waiting.length > 0) this.#grantWaiting();
    };
  }

  #grantWaiting(): void {
    const still: Waiting[] = [];
    for (const waiting of this.#waiting) {
      if (this.#conflicts(waiting, still)) still.push(waiting);
      else waiting.grant(this.#hold({ first: waiting.first, end: waiting.end, access: waiting.access }));
    }
    this.#waiting = still;
  }
}

function conflict(one: Held, other: Held): boolean {
  if (one.first >= other.end || other.first >= one.end) return false;
  return ((COMPATIBLE[one.access] >> other.access) & 1) === 0;
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
