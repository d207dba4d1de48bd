/**
 * Memory for the data of requests. All connections share one budget; beside it each has a floor of its own, so that one
 * whose client takes no replies, or stops amidst its data, holds up nobody but itself.
 */

export class Budget {
  readonly floorBytes: number;
  #freeBytes: number;
  #heldBytes = 0;
  readonly #waiting = new Set<Share>();

  constructor(sharedBytes: number, floorBytes: number) {
    this.#freeBytes = sharedBytes;
    this.floorBytes = floorBytes;
  }

  /** Of the part that all share. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  /** By all, floors included. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  open(): Share {
    const count = (bytes: number): void => {
      this.#heldBytes += bytes;
    };
    return new Share(this, this.#waiting, { reserve: (bytes) => this.#reserve(bytes), count });
  }

  #reserve(bytes: number): boolean {
    if (bytes > this.#freeBytes) return false;
    this.#freeBytes -= bytes;
    // In the order in which they came to wait; one that still cannot go on lets others by.
    if (bytes < 0) for (const share of this.#waiting) share.tryAgain();
    return true;
  }
}

/** Of one connection. One request at a time waits for room, since they are read one after the other. */
export class Share {
  readonly #floorBytes: number;
  readonly #waiting: Set<Share>;
  readonly #reserve: (bytes: number) => boolean;
  readonly #count: (bytes: number) => void;
  #heldBytes = 0;
  #wanted: { bytes: number; resolve: () => void } | null = null;

  constructor(
    budget: Budget,
    waiting: Set<Share>,
    { reserve, count }: { reserve: (bytes: number) => boolean; count: (bytes: number) => void },
  ) {
    this.#floorBytes = budget.floorBytes;
    this.#waiting = waiting;
    this.#reserve = reserve;
    this.#count = count;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** At most the floor at a time. */
  tryTake(bytes: number): boolean {
    const beyondFloor = this.#beyondFloor(this.#heldBytes + bytes) - this.#beyondFloor(this.#heldBytes);
    if (beyondFloor > 0 && !this.#reserve(beyondFloor)) return false;
    this.#heldBytes += bytes;
    this.#count(bytes);
    return true;
  }

  take(bytes: number): Promise<void> {
    if (this.tryTake(bytes)) return Promise.resolve();
    return new Promise((resolve) => {
      this.#wanted = { bytes, resolve };
      this.#waiting.add(this);
    });
  }

  give(bytes: number): void {
    const before = this.#beyondFloor(this.#heldBytes);
    this.#heldBytes -= bytes;
    this.#count(-bytes);
    const freed = before - this.#beyondFloor(this.#heldBytes);
    this.tryAgain();
    if (freed > 0) this.#reserve(-freed);
  }

  tryAgain(): void {
    if (this.#wanted === null || !this.tryTake(this.#wanted.bytes)) return;
    const { resolve } = this.#wanted;
    this.#wanted = null;
    this.#waiting.delete(this);
    resolve();
  }

  #beyondFloor(heldBytes: number): number {
    return Math.max(0, heldBytes - this.#floorBytes);
  }
}
