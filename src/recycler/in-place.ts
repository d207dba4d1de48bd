/**
 * Compressed extents in the fewest clusters with as little moved as that allows (design 6): what lies well stays, dead
 * space before it is filled with chains from the end of the file, and only where none fit do those behind it close
 * up. Pure: reads extents, writes nothing.
 */
import { SECTOR } from '../device/block-device.js';
import { ChainSearch } from './chain-search.js';
import { Chains } from './chains.js';
import type { Extents } from '../image/extents.js';

export interface Stretch {
  clusterBytes: number;
  /** The extents get `clusters` clusters from this one on, and none from `endCluster` on. */
  firstCluster: number;
  endCluster: number;
  clusters: number;
  /** Whether something that is not compressed holds the cluster. */
  isWall: (cluster: number) => boolean;
  /** What may step aside for the whole time that the others close up. */
  asideBytes: number;
  /**
   * Where the first chain finds no better than to close up, all behind it do, after the first of them have stepped
   * aside: better where most would, by so little that each were copied over itself.
   */
  closesUpAtOnce: boolean;
}

/** What closes up by less than this part of its length would be copied over itself: the first of it steps aside. */
const CLOSE_SHARE = 4;
/** So much of all that closes up steps aside. */
const ASIDE_SHARE = 8;
/** Below this it does not matter what is copied twice. */
const SMALL_SECTORS = (1 << 20) / SECTOR;
/** A chain is long where it is this part of what is left: all that may be wasted may be for its sake. */
const LONG_SHARE = 8;

/** Sectors of a long gap that are left to the chain or two that fit well. */
const SMALL_GAP = 256;

/** Where each extent goes: host offsets in the order of the extents. */
export function packInPlace(extents: Extents, stretch: Stretch): Float64Array {
  return new InPlacePacking(extents, stretch).run();
}

class InPlacePacking {
  readonly #extents: Extents;
  readonly #chains: Chains;
  readonly #search: ChainSearch;
  readonly #stretch: Stretch;
  readonly #perCluster: number;
  readonly #targets: Float64Array;
  /** The sector from which on the rest goes. */
  #at: number;
  /** Sectors that may still be wasted: left between chains, or there twice. */
  #spareSectors: number;
  /** Clusters of the stretch that may still be left to others. */
  #spareClusters: number;
  /** Sectors of the chains that have no place yet. */
  #left: number;
  /** What has been left of a gap since it was last filled: used after all where the chain behind it closes up. */
  readonly #skipped = { sectors: 0, clusters: 0 };

  constructor(extents: Extents, stretch: Stretch) {
    const { clusterBytes, firstCluster, endCluster, clusters } = stretch;
    this.#extents = extents;
    this.#stretch = stretch;
    this.#perCluster = clusterBytes / SECTOR;
    this.#chains = new Chains(extents, this.#perCluster);
    this.#search = new ChainSearch(this.#chains);
    this.#targets = new Float64Array(extents.count);
    this.#at = firstCluster * this.#perCluster;
    this.#left = extents.sectors;
    // Not more than a cluster, so that what is left of a gap holds no whole one.
    this.#spareSectors = Math.min(clusters * this.#perCluster - this.#left, this.#perCluster - 1);
    this.#spareClusters = endCluster - firstCluster - clusters;
  }

  run(): Float64Array {
    const chains = this.#chains;
    for (let chain = chains.head; chain >= 0; chain = chains.next[chain]!) {
      const start = chains.startSector(chain);
      if (this.#bridge(chain, start)) this.#at = start;
      else if (this.#closesUp(chain, start)) {
        this.#closeUp(chain);
        return this.#targets;
      }
      this.#put(chain);
    }
    return this.#targets;
  }

  /** Puts the chain at the current place. */
  #put(chain: number): void {
    this.#place(this.#chains.first[chain]!, this.#chains.end[chain]!, this.#at);
    this.#at += this.#chains.sectors[chain]!;
    this.#left -= this.#chains.sectors[chain]!;
  }

  #place(first: number, end: number, sector: number): void {
    const shift = sector * SECTOR - this.#extents.sectorStart(first);
    for (let i = first; i < end; i++) this.#targets[i] = this.#extents.offsets[i]! + shift;
  }

  /**
   * Fills the gap before `chain`, which begins at sector `start`, or leaves it where that is no loss; false where
   * neither can be done, so that the chain has to close up to what has been filled.
   */
  #bridge(chain: number, start: number): boolean {
    const { isWall } = this.#stretch;
    const perCluster = this.#perCluster;
    for (let from = this.#at; from < start;) {
      const cluster = Math.floor(from / perCluster);
      const isBorder = from % perCluster === 0;
      if (isBorder && isWall(cluster)) {
        if (!this.#leaveClusters(1)) return this.#giveUp();
        from += perCluster;
        continue;
      }
      let next = cluster + 1;
      while (next * perCluster < start && !isWall(next)) next++;
      const to = Math.min(next * perCluster, start);
      if (!this.#fill(chain, from, to)) return this.#giveUp();
      from = to;
    }
    this.#forgetSkipped();
    return true;
  }

  #giveUp(): false {
    this.#spareSectors += this.#skipped.sectors;
    this.#spareClusters += this.#skipped.clusters;
    this.#forgetSkipped();
    return false;
  }

  #forgetSkipped(): void {
    this.#skipped.sectors = 0;
    this.#skipped.clusters = 0;
  }

  #leaveClusters(count: number): boolean {
    if (count > this.#spareClusters) return false;
    this.#spareClusters -= count;
    this.#skipped.clusters += count;
    return true;
  }

  #leaveSectors(count: number): void {
    this.#spareSectors -= count;
    this.#skipped.sectors += count;
  }

  /** Fills or leaves the sectors from `from` to `to`, in which there is no wall. */
  #fill(chain: number, from: number, to: number): boolean {
    const perCluster = this.#perCluster;
    if (from === to) return true;
    const up = Math.ceil(from / perCluster) * perCluster;
    const down = Math.floor(to / perCluster) * perCluster;
    // Whole clusters in between are for others, as far as these need them.
    if (up < down && (down - up) / perCluster <= this.#spareClusters) {
      if (!this.#fill(chain, from, up)) return false;
      return this.#leaveClusters((down - up) / perCluster) && this.#fill(chain, down, to);
    }
    const sectors = to - from;
    const fair = this.#fairShare(chain);
    const hasWhole = up < down;
    if (!hasWhole && sectors <= fair) {
      this.#leaveSectors(sectors);
      return true;
    }
    if (this.#fillWith(chain, from, sectors, fair)) return true;
    // Better all that there is to waste than to move what is long.
    const isLong = this.#chains.sectors[chain]! * LONG_SHARE >= this.#left;
    if (!isLong || fair === this.#spareSectors) return false;
    if (!hasWhole && sectors <= this.#spareSectors) {
      this.#leaveSectors(sectors);
      return true;
    }
    return this.#fillWith(chain, from, sectors, this.#spareSectors);
  }

  /** Sectors that may be wasted before `chain`: a part of all that may be, as it is one of all that is left. */
  #fairShare(chain: number): number {
    const part = (2 * this.#chains.sectors[chain]!) / this.#left;
    return Math.min(this.#spareSectors, Math.ceil(this.#spareSectors * part));
  }

  /** Fills `sectors` from sector `from` on with what lies behind `chain`, and leaves `rest` of them at most. */
  #fillWith(chain: number, from: number, sectors: number, rest: number): boolean {
    const chains = this.#chains;
    const taken: number[] = [];
    let remaining = sectors;
    // A long gap begins with the longest that fit.
    while (remaining > 2 * this.#perCluster + SMALL_GAP) {
      const longest = this.#search.longest(remaining - SMALL_GAP, chain);
      if (longest < 0) break;
      taken.push(longest);
      this.#search.drop(longest);
      remaining -= chains.sectors[longest]!;
    }
    const whole = this.#search.whole(remaining, rest, chain);
    const piece = whole === null ? this.#search.piece(remaining, rest, chain) : null;
    if (whole === null && (piece === null || taken.includes(piece.chain))) {
      this.#search.restore(taken);
      return false;
    }
    if (piece !== null) taken.push(this.#cutOut(piece));
    else taken.push(...whole!);
    let at = from;
    for (const each of taken) {
      this.#search.drop(each);
      chains.take(each);
      this.#place(chains.first[each]!, chains.end[each]!, at);
      at += chains.sectors[each]!;
      this.#left -= chains.sectors[each]!;
    }
    this.#at = at;
    this.#forgetSkipped();
    this.#leaveSectors(from + sectors - at);
    return true;
  }

  /** Makes a chain of its own of the piece. */
  #cutOut({ chain, first, end, cuts }: { chain: number; first: number; end: number; cuts: number }): number {
    const chains = this.#chains;
    this.#search.drop(chain);
    this.#spareSectors -= cuts;
    this.#left += cuts;
    if (end < chains.end[chain]!) chains.cut(chain, end);
    return first > chains.first[chain]! ? chains.cut(chain, first) : chain;
  }

  /** Whether all from `chain` on close up. */
  #closesUp(chain: number, start: number): boolean {
    const sectors = this.#chains.sectors[chain]!;
    if (this.#stretch.closesUpAtOnce) return this.#left > SMALL_SECTORS;
    return sectors > SMALL_SECTORS && (start - this.#at) * CLOSE_SHARE < sectors;
  }

  /**
   * All from `chain` on close up. The first of them step aside, so that the others need not, and come last.
   */
  #closeUp(chain: number): void {
    const chains = this.#chains;
    const wanted = Math.min(this.#left / ASIDE_SHARE, this.#stretch.asideBytes / SECTOR);
    let rest = chain;
    let aside = 0;
    while (rest !== chains.tail && aside + chains.sectors[rest]! <= wanted) {
      aside += chains.sectors[rest]!;
      rest = chains.next[rest]!;
    }
    if (aside < wanted / 2 && this.#spareSectors > 0 && chains.canCut) {
      const first = chains.first[rest]!;
      let end = first + 1;
      while (end + 1 < chains.end[rest]! && aside + chains.span(first, end + 1) <= wanted) end++;
      if (end < chains.end[rest]!) {
        this.#spareSectors--;
        rest = chains.cut(rest, end);
      }
    }
    for (let each = rest; each >= 0; each = chains.next[each]!) this.#put(each);
    for (let each = chain; each !== rest; each = chains.next[each]!) this.#put(each);
  }
}
