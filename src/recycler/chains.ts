/**
 * Compressed extents that overlap, directly or through others, as chains (design 6): whole numbers of sectors that
 * can lie anywhere on their own. A row in host order, from which chains are taken and in which one can be cut.
 */
import { SECTOR } from '../device/block-device.js';
import type { Extents } from '../image/extents.js';

/** Chains are looked up by their length up to this many sectors. */
export const LONGEST_LISTED = 4096;

export class Chains {
  readonly extents: Extents;
  /** Extents of chain c: from `first[c]` up to, not including, `end[c]`. */
  readonly first: Uint32Array;
  readonly end: Uint32Array;
  readonly sectors: Float64Array;
  /** The row of those not taken: -1 at its ends. */
  readonly next: Int32Array;
  readonly previous: Int32Array;
  /** No extent lies within another and neighbours share one sector at most, so that any chain can be cut. */
  readonly canCut: boolean;
  head: number;
  tail: number;
  #count: number;

  /** `cuts`: cuts at most. */
  constructor(extents: Extents, cuts: number) {
    this.extents = extents;
    let count = 0;
    let reach = -1;
    let canCut = true;
    for (let i = 0; i < extents.count; i++) {
      if (extents.offsets[i]! >= reach) count++;
      else if (extents.end(i) <= reach || reach - extents.sectorStart(i) > SECTOR) canCut = false;
      reach = Math.max(reach, extents.end(i));
    }
    this.canCut = canCut;
    const capacity = count + cuts;
    this.first = new Uint32Array(capacity);
    this.end = new Uint32Array(capacity);
    this.sectors = new Float64Array(capacity);
    this.next = new Int32Array(capacity);
    this.previous = new Int32Array(capacity);
    reach = -1;
    let chain = -1;
    for (let i = 0; i < extents.count; i++) {
      if (extents.offsets[i]! >= reach) this.first[++chain] = i;
      reach = Math.max(reach, extents.end(i));
      this.end[chain] = i + 1;
      this.sectors[chain] = (reach - extents.sectorStart(this.first[chain]!)) / SECTOR;
    }
    for (let i = 0; i < count; i++) {
      this.previous[i] = i - 1;
      this.next[i] = i + 1 < count ? i + 1 : -1;
    }
    this.#count = count;
    this.head = count > 0 ? 0 : -1;
    this.tail = count - 1;
  }

  get count(): number {
    return this.#count;
  }

  /** The sector of the file in which the chain begins. */
  startSector(chain: number): number {
    return this.extents.sectorStart(this.first[chain]!) / SECTOR;
  }

  /** Takes the chain out of the row. */
  take(chain: number): void {
    const previous = this.previous[chain]!;
    const next = this.next[chain]!;
    if (previous < 0) this.head = next;
    else this.next[previous] = next;
    if (next < 0) this.tail = previous;
    else this.previous[next] = previous;
  }

  /**
   * Cuts the chain before `extent`, which becomes the first of a new one behind it; answers the new one. The sector
   * that the two share is there twice from then on.
   */
  cut(chain: number, extent: number): number {
    const { first, end, sectors, next, previous } = this;
    const after = this.#count++;
    first[after] = extent;
    end[after] = end[chain]!;
    end[chain] = extent;
    for (const each of [chain, after]) sectors[each] = this.span(first[each]!, end[each]!);
    next[after] = next[chain]!;
    previous[after] = chain;
    if (next[after] < 0) this.tail = after;
    else previous[next[after]] = after;
    next[chain] = after;
    return after;
  }

  /** Sectors from the first of `extent` to the last before `end`, where nothing lies within another. */
  span(extent: number, end: number): number {
    return (this.extents.end(end - 1) - this.extents.sectorStart(extent)) / SECTOR;
  }
}
