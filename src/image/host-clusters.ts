/**
 * What the walk knows of each host cluster: how many paths lead to it and what it holds.
 * 5 bytes a cluster (I9); the refcounts on disk are another 4 (refcounts.ts).
 */

import { clear } from '../format/words.js';

/** What a host cluster holds. */
export const Kind = {
  none: 0,
  header: 1,
  refcountTable: 2,
  refcountBlock: 3,
  l1Table: 4,
  snapshotTable: 5,
  l2Table: 6,
  data: 7,
  /** Holds compressed extents, or parts of them. */
  compressed: 8,
  /** The LUKS header. */
  encryptionHeader: 9,
  bitmapDirectory: 10,
  bitmapTable: 11,
  /** The bits of a persistent bitmap. */
  bitmapData: 12,
} as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

export const KIND_NAMES = [
  'nothing',
  'header',
  'refcount table',
  'refcount block',
  'L1 table',
  'snapshot table',
  'L2 table',
  'data',
  'compressed data',
  'encryption header',
  'bitmap directory',
  'bitmap table',
  'bitmap data',
] as const;

const KIND_MASK = 0x0f;
/** The active L1 table leads here: flags in this L2 table are maintained (hazard 4.3). */
const ACTIVE = 0x10;
/** An active entry without the COPIED flag leads here. */
const UNFLAGGED = 0x20;

export class HostClusters {
  #count: number;
  /** References by path: an L2 table shared by n L1 tables gives each of its clusters n (hazard 7.2). */
  refs: Uint32Array;
  /** Kind and flags of each cluster; hot loops compare with 0 (`Kind.none`, no flag) or set a kind without one. */
  kinds: Uint8Array;
  /** Active entries without COPIED beyond the first, where there are any: legal, though QEMU makes none. */
  readonly #aliases = new Map<number, number>();

  constructor(count: number) {
    this.#count = count;
    this.refs = new Uint32Array(count);
    this.kinds = new Uint8Array(count);
  }

  get count(): number {
    return this.#count;
  }

  kind(cluster: number): Kind {
    return (this.kinds[cluster]! & KIND_MASK) as Kind;
  }

  setKind(cluster: number, kind: Kind): void {
    this.kinds[cluster] = (this.kinds[cluster]! & ~KIND_MASK) | kind;
  }

  /** Whether something is compressed: such clusters carry no other mark. */
  get hasCompressed(): boolean {
    return this.kinds.includes(Kind.compressed);
  }

  /** Clusters of `kind`, ascending; by memchr, since of a large image this finds few among many. */
  *ofKind(kind: Kind): Iterable<number> {
    const values = [kind, kind | ACTIVE, kind | UNFLAGGED, kind | ACTIVE | UNFLAGGED];
    const next = values.map((value) => this.kinds.indexOf(value));
    for (;;) {
      let nearest = -1;
      for (let i = 0; i < next.length; i++) {
        if (next[i]! >= 0 && (nearest < 0 || next[i]! < next[nearest]!)) nearest = i;
      }
      if (nearest < 0) return;
      const cluster = next[nearest]!;
      yield cluster;
      next[nearest] = this.kinds.indexOf(values[nearest]!, cluster + 1);
    }
  }

  isActive(cluster: number): boolean {
    return (this.kinds[cluster]! & ACTIVE) !== 0;
  }

  markActive(cluster: number): void {
    this.kinds[cluster]! |= ACTIVE;
  }

  unmarkActive(cluster: number): void {
    this.kinds[cluster]! &= ~ACTIVE;
  }

  /** Once for each such entry. */
  markUnflagged(cluster: number): void {
    if (this.isUnflagged(cluster)) this.#aliases.set(cluster, (this.#aliases.get(cluster) ?? 0) + 1);
    this.kinds[cluster]! |= UNFLAGGED;
  }

  /** One such entry does not lead here any more. */
  dropUnflagged(cluster: number): void {
    const others = this.#aliases.get(cluster) ?? 0;
    if (others > 1) this.#aliases.set(cluster, others - 1);
    else if (others === 1) this.#aliases.delete(cluster);
    else this.unmarkUnflagged(cluster);
  }

  /** Whether several active entries lead here. */
  isAliased(cluster: number): boolean {
    return this.#aliases.has(cluster);
  }

  isUnflagged(cluster: number): boolean {
    return (this.kinds[cluster]! & UNFLAGGED) !== 0;
  }

  unmarkUnflagged(cluster: number): void {
    this.kinds[cluster]! &= ~UNFLAGGED;
    this.#aliases.delete(cluster);
  }

  /**
   * One active entry without COPIED is all that leads here. Its refcount can only be lowered to 1 by moving
   * the cluster, so that pointer and flag change in the same 8 bytes (I3).
   */
  needsFlag(cluster: number): boolean {
    return this.refs[cluster] === 1 && this.isUnflagged(cluster);
  }

  /** What was said of `source` holds of `destination`; `flagged`: the entry has got its COPIED flag. */
  moved(source: number, destination: number, flagged: boolean): void {
    this.refs[destination] = this.refs[source]!;
    const kinds = this.kinds[source]!;
    this.kinds[destination] = flagged ? kinds & ~UNFLAGGED : kinds;
    const others = this.#aliases.get(source);
    if (others !== undefined && !flagged) this.#aliases.set(destination, others);
    this.forget(source);
  }

  /** Nothing refers to `cluster` any more. */
  forget(cluster: number): void {
    this.refs[cluster] = 0;
    this.kinds[cluster] = Kind.none;
    this.#aliases.delete(cluster);
  }

  /** Sets the number of clusters; new ones hold nothing. */
  resize(count: number): void {
    if (count > this.refs.length) {
      const capacity = Math.max(count, Math.ceil(this.refs.length * 1.1));
      const refs = new Uint32Array(capacity);
      refs.set(this.refs);
      const kinds = new Uint8Array(capacity);
      kinds.set(this.kinds);
      this.refs = refs;
      this.kinds = kinds;
    } else {
      clear(this.refs, count, this.#count);
      clear(this.kinds, count, this.#count);
    }
    this.#count = count;
  }
}
