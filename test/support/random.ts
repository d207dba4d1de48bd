/** Seeded pseudo-random numbers (mulberry32): the same seed gives the same test on every machine. */
export class Random {
  private state: number;

  constructor(readonly seed: number) {
    // Scrambled first, so that neighbouring seeds do not begin alike.
    this.state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) >>> 0;
  }

  /** A whole number from 0 to 2^32 - 1. */
  uint32(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  /** A whole number from 0 to `limit - 1`; 0 when `limit` is 0. */
  int(limit: number): number {
    return Math.floor((this.uint32() / 0x1_0000_0000) * limit);
  }

  /** A whole number from `first` to `last`, both included. */
  between(first: number, last: number): number {
    return first + this.int(last - first + 1);
  }

  chance(probability: number): boolean {
    return this.uint32() / 0x1_0000_0000 < probability;
  }

  pick<Item>(items: readonly Item[]): Item {
    if (items.length === 0) {
      throw new Error('Random.pick needs at least one item');
    }
    return items[this.int(items.length)] as Item;
  }

  /** Shuffles in place, and returns the same array. */
  shuffle<Item>(items: Item[]): Item[] {
    for (let last = items.length - 1; last > 0; last--) {
      const other = this.int(last + 1);
      const moved = items[last] as Item;
      items[last] = items[other] as Item;
      items[other] = moved;
    }
    return items;
  }

  bytes(length: number): Uint8Array {
    const result = new Uint8Array(length);
    let word = 0;
    for (let index = 0; index < length; index++) {
      if ((index & 3) === 0) {
        word = this.uint32();
      }
      result[index] = word;
      word >>>= 8;
    }
    return result;
  }
}
