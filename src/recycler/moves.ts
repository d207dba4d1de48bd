/**
 * The moves of one round: source, destination and state each, in typed arrays ordered by source
 * (recycler contract C20 to C30), with the slots on disk that refer to the sources.
 */
import type { Relocation } from '../image/substitute.js';
import { State } from './cluster-map.js';
import type { Volume } from './volume.js';

export const MoveState = {
  cancelled: 0,
  copying: 1,
  copied: 2,
  flushed: 3,
  referenced: 4,
  complete: 5,
} as const;
export type MoveState = (typeof MoveState)[keyof typeof MoveState];

const NAMES = ['cancelled', 'copying', 'copied', 'flushed', 'referenced', 'complete'] as const;

/** Slots of a round in the order in which the visitor met them: those in one cluster are neighbours. */
export interface Slots {
  /** Host offset of each slot when the slots were collected. */
  offsets: Float64Array;
  /** Index of the move whose source it refers to. */
  moves: Uint32Array;
}

/** A stretch of neighbours that move to neighbours. */
export interface Extent {
  first: number;
  source: number;
  destination: number;
  count: number;
}

/** Position of `value` in ascending `sorted`, or -1. */
export function indexIn(sorted: Uint32Array, value: number): number {
  let low = 0;
  let high = sorted.length - 1;
  while (low <= high) {
    const middle = (low + high) >>> 1;
    const at = sorted[middle]!;
    if (at === value) return middle;
    if (at < value) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

function isOver(state: number): boolean {
  return state === MoveState.cancelled || state === MoveState.complete;
}

export class Moves implements Relocation {
  readonly sources: Uint32Array;
  readonly destinations: Uint32Array;
  readonly slots: Slots;
  readonly #states: Uint8Array;
  readonly #needFlag: (cluster: number) => boolean;
  /** Moves whose references are being written: nothing cancels them meanwhile. */
  #held = new Set<number>();
  /** Moves of tables of several clusters -> all moves of that table. */
  readonly #units = new Map<number, number[]>();
  #referring: ReadonlyMap<number, readonly number[]> | null = null;

  /** `sources` ascending, each cluster at most once in either array and in none of both (C20). */
  constructor(
    sources: Uint32Array,
    destinations: Uint32Array,
    slots: Slots,
    needFlag: (cluster: number) => boolean,
  ) {
    this.sources = sources;
    this.destinations = destinations;
    this.slots = slots;
    this.#needFlag = needFlag;
    this.#states = new Uint8Array(sources.length).fill(MoveState.copying);
  }

  get length(): number {
    return this.sources.length;
  }

  state(index: number): MoveState {
    return this.#states[index] as MoveState;
  }

  /** One step forward; a skipped or backward step is an error, a step of a cancelled move does nothing (C23). */
  advance(index: number, to: MoveState): void {
    const from = this.state(index);
    if (from === MoveState.cancelled) return;
    if (to !== from + 1) throw new Error(`move ${index} cannot go from ${NAMES[from]} to ${NAMES[to]}`);
    this.#states[index] = to;
  }

  /** Whether the move is still open to cancelling, and cancels it (C28). */
  cancel(index: number): boolean {
    if (this.#held.has(index)) return false;
    const state = this.state(index);
    if (state !== MoveState.copying && state !== MoveState.copied && state !== MoveState.flushed)
      return false;
    this.#states[index] = MoveState.cancelled;
    return true;
  }

  /** These are not to be cancelled, and all others may be. */
  hold(indices: readonly number[]): void {
    this.#held = new Set(indices);
  }

  /** Index of the move of `cluster`, or -1 where it does not move or its move was cancelled. */
  find(cluster: number): number {
    const index = indexIn(this.sources, cluster);
    return index >= 0 && this.state(index) !== MoveState.cancelled ? index : -1;
  }

  /** Notes which moves are of one table: what cancels or defers one of them does so to all. */
  join(runs: Iterable<{ first: number; count: number }>): void {
    for (const { first, count } of runs) {
      const index = count > 1 ? indexIn(this.sources, first) : -1;
      if (index < 0) continue;
      const unit = Array.from({ length: count }, (_, i) => index + i);
      for (const i of unit) this.#units.set(i, unit);
    }
  }

  /** The move and the others of its table. */
  unitOf(index: number): readonly number[] {
    return this.#units.get(index) ?? [index];
  }

  /** The move, and all moves of tables whose copies name its destination, directly or not. */
  withDependants(index: number, clusterBytes: number): Set<number> {
    this.#referring ??= this.#findReferring(clusterBytes);
    const found = new Set(this.unitOf(index));
    // What is added on the way is visited too.
    for (const move of found) {
      for (const table of this.#referring.get(move) ?? []) {
        if (this.state(table) !== MoveState.cancelled) for (const k of this.unitOf(table)) found.add(k);
      }
    }
    return found;
  }

  /** Of moves that slots in moving tables name: the moves of these tables. Clients cancel often, mostly data. */
  #findReferring(clusterBytes: number): Map<number, number[]> {
    const referring = new Map<number, number[]>();
    const { offsets, moves } = this.slots;
    for (let i = 0; i < offsets.length; i++) {
      const table = indexIn(this.sources, Math.floor(offsets[i]! / clusterBytes));
      if (table < 0) continue;
      const found = referring.get(moves[i]!);
      if (found === undefined) referring.set(moves[i]!, [table]);
      else if (found.at(-1) !== table) found.push(table);
    }
    return referring;
  }

  destinationOf(cluster: number): number {
    const index = this.find(cluster);
    return index < 0 ? -1 : this.destinations[index]!;
  }

  flagged(cluster: number): boolean {
    return this.#needFlag(cluster);
  }

  /** Moves that are neither complete nor cancelled (C22). */
  get unfinished(): boolean {
    return this.#states.some((state) => !isOver(state));
  }

  /** Destinations of the moves that are neither complete nor cancelled. */
  openDestinations(): Set<number> {
    const open = (_: number, i: number) => !isOver(this.state(i));
    return new Set(this.destinations.filter(open));
  }

  /** References that name a destination once `updated` are: in slots on disk and in copies of tables that moved. */
  countSlots(updated: number[]): number {
    if (updated.length === this.length) return this.slots.moves.length;
    const among = new Set(updated);
    return this.slots.moves.reduce((count, move) => count + (among.has(move) ? 1 : 0), 0);
  }

  /** Indices of the moves in `state`, as they are now. */
  inState(state: MoveState): number[] {
    const found: number[] = [];
    for (let i = 0; i < this.length; i++) if (this.#states[i] === state) found.push(i);
    return found;
  }

  /** Stretches of moves in state copying that `include` accepts, at most `maxClusters` each. */
  *extents(maxClusters: number, include: (source: number) => boolean): Iterable<Extent> {
    let extent: Extent | null = null;
    for (let i = 0; i < this.length; i++) {
      const source = this.sources[i]!;
      const destination = this.destinations[i]!;
      if (this.#states[i] !== MoveState.copying || !include(source)) continue;
      if (
        extent !== null &&
        extent.source + extent.count === source &&
        extent.destination + extent.count === destination &&
        extent.count < maxClusters
      ) {
        extent.count++;
        continue;
      }
      if (extent !== null) yield extent;
      extent = { first: i, source, destination, count: 1 };
    }
    if (extent !== null) yield extent;
  }
}

/** What is to move may move, and no move feeds another; the destinations' states are the map's to check (C21). */
export function assertMayMove({ pins, map }: Volume, moves: Moves): void {
  for (const [i, source] of moves.sources.entries()) {
    if (pins.has(source)) throw new Error('the source of a move is pinned');
    if (i > 0 && source <= moves.sources[i - 1]!) throw new Error('sources must ascend');
    if (!map.is(source, State.live)) throw new Error('the source of a move is not live');
    if (moves.find(moves.destinations[i]!) >= 0) throw new Error('a destination is a source too');
  }
}
