/**
 * Who refers to what while clients write. A pointer that changes in memory changes the references at once; the refcounts
 * on disk follow when the pointer has: what is let go of is noted here until then (I3).
 */
import { Kind } from '../image/host-clusters.js';
import { State } from '../recycler/cluster-map.js';
import type { Recycler } from '../recycler/recycler.js';
import { hostRangeOf } from './mapping.js';

/** What pointers let go of that are still to be written. */
export interface Released {
  /** Clusters that are still in use, once for each pointer. */
  lowered: number[];
  /** Clusters that nothing in memory refers to any more. */
  gone: number[];
  /** Some pointer names data that a barrier has to make durable before it is written (I4). */
  isOrdered: boolean;
}

/** So many clusters in between take some megabytes of memory. */
const MOST_NOTES = 1 << 18;

export class Ledger {
  readonly #recycler: Recycler;
  #released: Released = { lowered: [], gone: [], isOrdered: false };

  constructor(recycler: Recycler) {
    this.#recycler = recycler;
  }

  /** Allocated clusters, of `kind` from now on, that the one pointer to each names. */
  refer(clusters: readonly number[], kind: Kind): void {
    const { map, clusters: uses } = this.#recycler.volume;
    map.transition(clusters, State.held, State.live);
    for (const cluster of clusters) {
      uses.refs[cluster] = 1;
      uses.setKind(cluster, kind);
      if (kind === Kind.l2Table) uses.markActive(cluster);
    }
  }

  /** Pointers in memory follow data that are written, but not durable. */
  order(): void {
    this.#released.isOrdered = true;
  }

  /** An L2 entry of the active layer, in a table that nobody shares, does not refer to anything any more. */
  dropEntry(hi: number, lo: number): void {
    const { first, count } = hostRangeOf(this.#recycler.volume.image.header, hi, lo);
    for (let cluster = first; cluster < first + count; cluster++) this.drop(cluster);
  }

  /** A pointer of the active layer does not name `cluster` any more. */
  drop(cluster: number): void {
    const { map, clusters } = this.#recycler.volume;
    if (clusters.refs[cluster]! > 1) {
      clusters.refs[cluster]! -= 1;
      clusters.dropUnflagged(cluster);
      this.#released.lowered.push(cluster);
      return;
    }
    this.#recycler.cancel(cluster);
    // The destination of a move whose reference is rewritten already: the move still completes for its source (W21).
    map.transition([cluster], map.is(cluster, State.copy) ? State.copy : State.live, State.leaving);
    clusters.forget(cluster);
    this.#released.gone.push(cluster);
  }

  get isFull(): boolean {
    return this.#released.lowered.length + this.#released.gone.length > MOST_NOTES;
  }

  /** What goes with the pointers that are about to be written. */
  take(): Released {
    const taken = this.#released;
    this.#released = { lowered: [], gone: [], isOrdered: false };
    return taken;
  }

  /** Those pointers could not be written. */
  putBack({ lowered, gone, isOrdered }: Released): void {
    const later = this.#released;
    this.#released = {
      lowered: lowered.concat(later.lowered),
      gone: gone.concat(later.gone),
      isOrdered: isOrdered || later.isOrdered,
    };
  }
}
