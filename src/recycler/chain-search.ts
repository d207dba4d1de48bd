/**
 * Which chains fill a gap: those from the end of the file first, since what lies there is what shall go. Whole chains
 * of just the right length are best; else a piece is cut out of the last ones.
 */
import { type Chains, LONGEST_LISTED } from './chains.js';

/** Lengths that two chains together are looked for: a search through all pairs of lengths. */
const LONGEST_PAIR = 1024;
/** Sectors that may remain of a gap beside a pair of chains; more are not tried. */
const MOST_BESIDE_PAIR = 4;
/** Chains that are tried as the longest of three. */
const FIRSTS_OF_THREE = 24;
/** Extents, from the end of the file on, at which a piece may end. */
const ENDS_OF_PIECES = 512;

export interface Piece {
  /** Of which chain, and its extents. */
  chain: number;
  first: number;
  end: number;
  sectors: number;
  /** Sectors that are there twice afterwards. */
  cuts: number;
}

export class ChainSearch {
  readonly #chains: Chains;
  /** Per length: the last chain of that length; and of each chain the one of the same length before it. */
  readonly #last = new Int32Array(LONGEST_LISTED + 1).fill(-1);
  readonly #before: Int32Array;
  readonly #length: Uint16Array;
  /** One bit per length, set where there may be a chain of it that is still asked for: of most lengths there is none. */
  readonly #listed = new Uint32Array((LONGEST_LISTED >>> 5) + 1);
  #longest = 0;

  constructor(chains: Chains) {
    this.#chains = chains;
    this.#before = new Int32Array(chains.count);
    this.#length = new Uint16Array(chains.count);
    for (let chain = 0; chain < chains.count; chain++) {
      const sectors = chains.sectors[chain]!;
      if (sectors > LONGEST_LISTED) continue;
      this.#before[chain] = this.#last[sectors]!;
      this.#length[chain] = sectors;
      this.#list(chain, sectors);
      this.#longest = Math.max(this.#longest, sectors);
    }
  }

  #list(chain: number, sectors: number): void {
    this.#last[sectors] = chain;
    this.#listed[sectors >>> 5]! |= 1 << (sectors & 31);
  }

  /** The greatest length up to `sectors` of which there may be a chain; 0 where there is none. */
  #listedUpTo(sectors: number): number {
    let word = sectors >>> 5;
    let bits = this.#listed[word]! & (0xffff_ffff >>> (31 - (sectors & 31)));
    while (bits === 0) {
      if (word === 0) return 0;
      bits = this.#listed[--word]!;
    }
    return word * 32 + 31 - Math.clz32(bits);
  }

  /** The chain has been taken or cut: it is no answer any more. */
  drop(chain: number): void {
    if (chain < this.#length.length) this.#length[chain] = 0;
  }

  /** Chains dropped one after the other, each as the last of its length, are answers again. */
  restore(dropped: readonly number[]): void {
    for (const chain of [...dropped].reverse()) {
      const sectors = this.#chains.sectors[chain]!;
      this.#length[chain] = sectors;
      if (this.#last[sectors] === chain) continue;
      this.#before[chain] = this.#last[sectors]!;
      this.#list(chain, sectors);
    }
  }

  /** The last chain of `sectors` behind chain `after`, or -1; `but`: not this one. */
  #find(sectors: number, after: number, but = -1): number {
    const isDead = (chain: number) => chain >= 0 && this.#length[chain] !== sectors;
    while (isDead(this.#last[sectors]!)) this.#last[sectors] = this.#before[this.#last[sectors]!]!;
    let chain = this.#last[sectors]!;
    // Who asks goes on from chain to chain (those cut off have numbers of their own): none of these is behind a later one.
    if (chain <= after && after < this.#length.length) this.#listed[sectors >>> 5]! &= ~(1 << (sectors & 31));
    while (chain >= 0 && (chain === but || isDead(chain))) chain = this.#before[chain]!;
    return chain > after ? chain : -1;
  }

  /** The longest chain behind `after` of at most `sectors`, or -1. */
  longest(sectors: number, after: number): number {
    let length = this.#listedUpTo(Math.min(sectors, this.#longest));
    for (; length > 0; length = this.#listedUpTo(length - 1)) {
      const chain = this.#find(length, after);
      if (chain >= 0) return chain;
    }
    return -1;
  }

  /** Up to three chains behind `after` that leave at most `rest` of `sectors`; null where there are none. */
  whole(sectors: number, rest: number, after: number): number[] | null {
    return this.#oneOrTwo(sectors, rest, after) ?? this.#three(sectors, rest, after);
  }

  #three(sectors: number, rest: number, after: number): number[] | null {
    let length = sectors - 2;
    for (let tries = 0; tries < FIRSTS_OF_THREE && length > 0; tries++) {
      const chain = this.longest(length, after);
      if (chain < 0) return null;
      length = this.#chains.sectors[chain]! - 1;
      this.drop(chain);
      const others = this.#oneOrTwo(sectors - length - 1, rest, after);
      this.restore([chain]);
      if (others !== null) return [chain, ...others];
    }
    return null;
  }

  #oneOrTwo(sectors: number, rest: number, after: number): number[] | null {
    for (let beside = 0; beside <= Math.min(rest, sectors - 1); beside++) {
      if (sectors - beside > LONGEST_LISTED) continue;
      const chain = this.#find(sectors - beside, after);
      if (chain >= 0) return [chain];
      if (beside <= MOST_BESIDE_PAIR && sectors - beside <= LONGEST_PAIR) {
        const pair = this.#pair(sectors - beside, after);
        if (pair !== null) return pair;
      }
    }
    return null;
  }

  #pair(sectors: number, after: number): number[] | null {
    for (let longer = Math.min(sectors - 1, this.#longest); longer * 2 >= sectors; longer--) {
      const one = this.#find(longer, after);
      const other = one < 0 ? -1 : this.#find(sectors - longer, after, one);
      if (other >= 0) return [one, other];
    }
    return null;
  }

  /**
   * Neighbours in one of the last chains behind `after`, or in that one behind its beginning, that leave at most `rest` of `sectors`, what is there twice
   * then included; null where there are none.
   */
  piece(sectors: number, rest: number, after: number): Piece | null {
    const chains = this.#chains;
    if (!chains.canCut || rest === 0) return null;
    let ends = 0;
    for (let chain = chains.tail; chain >= 0; chain = chains.previous[chain]!) {
      const from = chains.first[chain]! + (chain === after ? 1 : 0);
      let first = chains.end[chain]! - 1;
      for (let end = chains.end[chain]!; end > from; end--) {
        if (ends++ === ENDS_OF_PIECES) return null;
        first = Math.min(first, end - 1);
        while (first > from && chains.span(first - 1, end) <= sectors) first--;
        const length = chains.span(first, end);
        const cutBefore = first > chains.first[chain]! ? 1 : 0;
        const cutAfter = end < chains.end[chain]! ? 1 : 0;
        const cuts = cutBefore + cutAfter;
        if (length <= sectors && sectors - length + cuts <= rest)
          return { chain, first, end, sectors: length, cuts };
      }
      if (chain === after) break;
    }
    return null;
  }
}
