/**
 * Lets many reads of a file go, then many writes. A file system with one lock a file (XFS) makes a write wait for
 * every read under way and later reads for the write; in turns, they wait once for many.
 */
interface Side {
  active: number;
  waiting: (() => void)[];
}

/** For workers that read and write by turns: each has to write before it reads again, so no side waits for ever. */
export class Turns {
  readonly #reads: Side = { active: 0, waiting: [] };
  readonly #writes: Side = { active: 0, waiting: [] };

  /** Does `work`, which reads, while nobody writes. */
  read(work: () => Promise<void>): Promise<void> {
    return take(this.#reads, this.#writes, work);
  }

  /** Does `work`, which writes, while nobody reads. */
  write(work: () => Promise<void>): Promise<void> {
    return take(this.#writes, this.#reads, work);
  }
}

async function take(side: Side, other: Side, work: () => Promise<void>): Promise<void> {
  // Who waits is counted as active by the one that ends the other side's turn.
  if (other.active > 0) await new Promise<void>((go) => side.waiting.push(go));
  else side.active++;
  try {
    await work();
  } finally {
    side.active--;
    if (side.active === 0) {
      const next = other.waiting;
      other.waiting = [];
      other.active = next.length;
      for (const go of next) go();
    }
  }
}
