/** A plan beside clients, cut into rounds, the last part of the file first. What clients change meanwhile drops out. */
import type { Kind } from '../../image/host-clusters.js';
import { Moves, type Slots } from '../../recycler/moves.js';
import type { Volume } from '../../recycler/volume.js';
import type { Tables } from '../tables.js';
import { type LivePlan, isHole, mayMove } from './live-plan.js';
import { collectLiveSlots } from './live-slots.js';

export class PlannedRounds {
  readonly #volume: Volume;
  readonly #plan: LivePlan;
  readonly #perRound: number;
  readonly #slots: Slots[];
  /** The next round; the last of the plan is the first. */
  #next = 0;

  private constructor(volume: Volume, plan: LivePlan, perRound: number, slots: Slots[]) {
    this.#volume = volume;
    this.#plan = plan;
    this.#perRound = perRound;
    this.#slots = slots;
  }

  static async collect(
    volume: Volume,
    tables: Tables,
    plan: LivePlan,
    perRound: number,
  ): Promise<PlannedRounds> {
    const { length } = plan.sources;
    const roundOf = Uint32Array.from(plan.sources, (_, i) => Math.floor((length - 1 - i) / perRound));
    const rounds = Math.ceil(length / perRound);
    const slots = await collectLiveSlots(volume, tables, plan.sources, roundOf, rounds);
    return new PlannedRounds(volume, plan, perRound, slots);
  }

  get kinds(): readonly Kind[] {
    return this.#plan.kinds;
  }

  /** No round is left. */
  get isDone(): boolean {
    return this.#next >= this.#slots.length;
  }

  /** The moves of the next round that are still possible, without an await to their registration; null after the last. */
  next(): Moves | null {
    const { sources, destinations, kinds } = this.#plan;
    while (this.#next < this.#slots.length) {
      const to = sources.length - this.#next * this.#perRound;
      const from = Math.max(0, to - this.#perRound);
      const slots = this.#slots[this.#next]!;
      this.#next++;
      const kept: number[] = [];
      for (let i = from; i < to; i++) {
        if (mayMove(this.#volume, kinds, sources[i]!) && isHole(this.#volume, destinations[i]!)) kept.push(i);
      }
      if (kept.length > 0) return this.#moves(kept, slots);
    }
    return null;
  }

  #moves(kept: readonly number[], { offsets, moves }: Slots): Moves {
    const { sources, destinations } = this.#plan;
    const position = new Map(kept.map((i, at) => [i, at]));
    const slots = [...moves.keys()].filter((slot) => position.has(moves[slot]!));
    return new Moves(
      Uint32Array.from(kept, (i) => sources[i]!),
      Uint32Array.from(kept, (i) => destinations[i]!),
      {
        offsets: Float64Array.from(slots, (slot) => offsets[slot]!),
        moves: Uint32Array.from(slots, (slot) => position.get(moves[slot]!)!),
      },
      () => false,
    );
  }
}
