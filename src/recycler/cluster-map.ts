/**
 * The state of every host cluster, and the only way to change it (recycler contract C1 to C8).
 * A destination whose reference was rewritten stays `copy` until its move completes: it is live and copy then.
 */

export const State = {
  /** Referenced, or about to be named by a pointer that is already written. */
  live: 0,
  /** No longer referenced, but a crash may bring the old pointer back until the next barrier. */
  leaving: 1,
  /** Nothing refers to it; its bytes are unknown. */
  junk: 2,
  /** Zeroed, not yet durable. */
  erased: 3,
  /** Zeroes on stable storage. */
  available: 4,
  /** Taken out of a pool and not yet referenced. */
  held: 5,
  /** Destination of an unfinished move. */
  copy: 6,
} as const;
export type State = (typeof State)[keyof typeof State];

const NAMES = ['live', 'leaving', 'junk', 'erased', 'available', 'held', 'copy'] as const;
const STATE_COUNT = NAMES.length;

/** C2: every legal change of state; everything else is a programming error. */
const LEGAL = new Set<number>(
  (
    [
      [State.junk, State.held],
      [State.held, State.erased],
      [State.held, State.live],
      [State.held, State.junk],
      [State.erased, State.available],
      [State.available, State.held],
      [State.junk, State.copy],
      [State.copy, State.junk],
      [State.copy, State.live],
      [State.copy, State.leaving],
      [State.live, State.leaving],
      [State.leaving, State.junk],
    ] as const
  ).map(([from, to]) => from * STATE_COUNT + to),
);

/** States that truncation may remove: pools hold nothing that anybody needs. */
const POOLS = new Set<number>([State.junk, State.erased, State.available]);

/** Clusters by number; read more than once. */
export type ClusterList = readonly number[] | Uint32Array;

export class ClusterMap {
  #states: Uint8Array;
  #count: number;
  readonly #counts = new Array<number>(STATE_COUNT).fill(0);
  /** No cluster before it is junk. */
  #junkFrom = 0;
  /** Called after every change that can create work (C10). */
  onChange: () => void = () => undefined;
  /** Clusters that left `erased` or `leaving` while a barrier was in flight; null when none is (C49, C50). */
  #leftDuringBarrier: Set<number> | null = null;

  /** On open every cluster that nothing refers to is junk, never available: its bytes are unknown (C4). */
  constructor(refs: Uint32Array, count: number) {
    this.#count = count;
    this.#states = new Uint8Array(count);
    for (let cluster = 0; cluster < count; cluster++) {
      const state = refs[cluster]! > 0 ? State.live : State.junk;
      this.#states[cluster] = state;
      this.#counts[state]!++;
    }
  }

  /** Clusters from 0 to the end of the file. */
  get clusterCount(): number {
    return this.#count;
  }

  state(cluster: number): State {
    if (cluster >= this.#count) throw new Error(`cluster ${cluster} is beyond the end of the file`);
    return this.#states[cluster] as State;
  }

  is(cluster: number, state: State): boolean {
    return cluster < this.#count && this.#states[cluster] === state;
  }

  /** The first junk cluster; the end of the file where there is none. Many steps would else each look through the whole file. */
  get firstJunk(): number {
    while (this.#junkFrom < this.#count && this.#states[this.#junkFrom] !== State.junk) this.#junkFrom++;
    return this.#junkFrom;
  }

  countOf(state: State): number {
    return this.#counts[state]!;
  }

  /** Clusters that are ready for new data, or will be with the next barrier. */
  get pooled(): number {
    return this.countOf(State.erased) + this.countOf(State.available);
  }

  /** Moves every listed cluster from one state to another; all are checked before any changes (C3). */
  transition(clusters: ClusterList, from: State, to: State): void {
    if (!LEGAL.has(from * STATE_COUNT + to)) {
      throw new Error(`illegal cluster transition ${NAMES[from]} -> ${NAMES[to]}`);
    }
    for (const cluster of clusters) {
      if (!this.is(cluster, from)) {
        const found = cluster < this.#count ? NAMES[this.#states[cluster]!] : 'beyond the end of the file';
        throw new Error(`cluster ${cluster} is ${found}, not ${NAMES[from]}`);
      }
    }
    for (let at = 0; at < clusters.length; at++) {
      const cluster = clusters[at]!;
      if (this.#states[cluster] !== from) {
        // Checked above: it can only have changed in this loop.
        for (let i = 0; i < at; i++) this.#states[clusters[i]!] = from;
        throw new Error(`cluster ${cluster} is listed twice`);
      }
      this.#states[cluster] = to;
    }
    for (const cluster of clusters) {
      if (from === State.erased || from === State.leaving) this.#leftDuringBarrier?.add(cluster);
      if (to === State.junk) this.#junkFrom = Math.min(this.#junkFrom, cluster);
    }
    this.#counts[from]! -= clusters.length;
    this.#counts[to]! += clusters.length;
    this.onChange();
  }

  /** Clusters that a barrier may advance are noted from here on (C47). */
  barrierBegins(): void {
    this.#leftDuringBarrier = new Set();
  }

  /** Of `clusters`, those still in `from` without having left it since the barrier began, go to `to`. */
  barrierEnds(clusters: ClusterList, from: State, to: State): number[] {
    const left = this.#leftDuringBarrier ?? new Set<number>();
    const advanced: number[] = [];
    for (const cluster of clusters) {
      if (!left.has(cluster) && this.is(cluster, from)) advanced.push(cluster);
    }
    this.#leftDuringBarrier = null;
    this.transition(advanced, from, to);
    this.#leftDuringBarrier = left;
    return advanced;
  }

  barrierDone(): void {
    this.#leftDuringBarrier = null;
  }

  /** The last cluster that the file must keep (C8); pools do not count. -1 in a file of pools only. */
  get lastCluster(): number {
    let cluster = this.#count - 1;
    while (cluster >= 0 && POOLS.has(this.#states[cluster]!)) cluster--;
    return cluster;
  }

  /** Clusters that a file extension adds read as zeroes: available at once (C9). */
  extend(count: number): void {
    const states = new Uint8Array(this.#count + count);
    states.set(this.#states.subarray(0, this.#count));
    states.fill(State.available, this.#count);
    this.#states = states;
    this.#count += count;
    this.#counts[State.available]! += count;
    this.onChange();
  }

  /** Pools beyond the new end go; anything else there is an error, and nothing changes (C60). */
  truncate(count: number): void {
    if (this.lastCluster >= count) throw new Error(`truncation would cut off cluster ${this.lastCluster}`);
    for (let cluster = count; cluster < this.#count; cluster++) {
      const state = this.#states[cluster]!;
      if (state === State.erased) this.#leftDuringBarrier?.add(cluster);
      this.#counts[state]!--;
    }
    this.#count = Math.min(this.#count, count);
    this.onChange();
  }

  /** C1: counts agree with the states; for `runtimeAsserts`. */
  assertConsistent(): void {
    const counts = new Array<number>(STATE_COUNT).fill(0);
    for (let cluster = 0; cluster < this.#count; cluster++) counts[this.#states[cluster]!]!++;
    for (let state = 0; state < STATE_COUNT; state++) {
      if (counts[state] !== this.#counts[state]) throw new Error(`miscounted ${NAMES[state]} clusters`);
    }
  }
}
