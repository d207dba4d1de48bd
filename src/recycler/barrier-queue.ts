/** What waits for the next barrier, moves apart (recycler contract C19, C47). */

export interface Queued {
  /** Zeroes that were written before the barrier begins. */
  erased: { first: number; count: number }[];
  /** Leaving for other reasons than a move; no pointer that is written names them. */
  leaving: number[];
  /** Still in use, with a pointer less; named once for each. */
  lowering: number[];
}

export class BarrierQueue implements Queued {
  erased: { first: number; count: number }[] = [];
  leaving: number[] = [];
  lowering: number[] = [];

  /** What a barrier that begins now advances: what comes later waits for the one after it. */
  take(): Queued {
    const { erased, leaving, lowering } = this;
    this.erased = [];
    this.leaving = [];
    this.lowering = [];
    return { erased, leaving, lowering };
  }

  /** The barrier has failed. */
  putBack({ erased, leaving, lowering }: Queued): void {
    this.erased = erased.concat(this.erased);
    this.leaving = leaving.concat(this.leaving);
    this.lowering = lowering.concat(this.lowering);
  }
}
