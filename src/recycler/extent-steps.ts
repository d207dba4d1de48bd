/**
 * In which rounds compressed extents get to their places (design 6): nothing is put where something lies that is yet
 * to move, itself included; what is in the way steps aside, if nothing else helps. Pure: the same steps that a run
 * takes tell beforehand how much it will copy.
 */
import { SECTOR } from '../device/block-device.js';
import type { Extents } from '../image/extents.js';
import { type ExtentMoves, piecesOf } from './extent-pieces.js';

/** A round has this many bytes at most, whatever is allowed: what bounds its memory. */
export const MOST_BYTES = 64 << 20;
/** What steps aside at a time is this part of all, or little. */
const ASIDE_SHARE = 8;
const SMALL_BYTES = 1 << 20;
/** A round of less than this part of what is left is small; so many of them are better than copying twice. */
const SMALL_SHARE = 32;
const SMALL_ROUNDS = 16;
/** An extent touches three clusters at most. */
const LEAST_CLUSTERS = 4;

const Place = { final: 0, origin: 1, aside: 2 } as const;

const NONE = new Uint32Array(0);

export interface Step {
  /** Extents that move, ascending. */
  moving: Uint32Array;
  /** Whether they step aside, or else get to where they shall be. */
  isAside: boolean;
}

export class ExtentSteps {
  readonly #extents: Extents;
  readonly #targets: Float64Array;
  readonly #clusterBytes: number;
  readonly #grainBytes: number;
  /** Those that move, in the order in which they get to their places. */
  readonly #order: Uint32Array;
  /** Where in the order each of them is. */
  readonly #positions: Uint32Array;
  readonly #places: Uint8Array;
  readonly #totalBytes: number;
  #next = 0;
  #leftBytes: number;
  #asideBytes = 0;
  #smallRounds = 0;

  /** `grainBytes`: a sector, or a cluster where no place may be taken in one beside what is yet to leave it. */
  constructor(extents: Extents, targets: Float64Array, clusterBytes: number, grainBytes: number) {
    this.#extents = extents;
    this.#targets = targets;
    this.#clusterBytes = clusterBytes;
    this.#grainBytes = grainBytes;
    this.#order = orderOf(extents, targets);
    this.#positions = new Uint32Array(extents.count);
    this.#places = new Uint8Array(extents.count);
    let total = 0;
    for (const [position, extent] of this.#order.entries()) {
      this.#positions[extent] = position;
      this.#places[extent] = Place.origin;
      total += extents.lengths[extent]!;
    }
    this.#totalBytes = total;
    this.#leftBytes = total;
  }

  /** The next round, where `roundBytes` may be in two places at once; null when all are where they shall be. */
  next(roundBytes: number): Step | null {
    if (this.#next === this.#order.length) return null;
    const least = LEAST_CLUSTERS * this.#clusterBytes;
    const room = Math.max(least, Math.min(roundBytes, MOST_BYTES) - this.#asideBytes);
    const { clear, end, bytes } = this.#clear(room);
    const isLast = end === this.#order.length;
    const isSmall =
      !isLast && bytes < Math.min(room / 2, Math.max(SMALL_BYTES, this.#leftBytes / SMALL_SHARE));
    const share = Math.max(this.#totalBytes / ASIDE_SHARE, SMALL_BYTES);
    const aside = Math.min(share, roundBytes / 2, MOST_BYTES) - this.#asideBytes;
    if (isSmall) {
      // One aside is better than many small rounds, but these are better than copying all twice.
      const isPatient = clear.length > 0 && (aside < least || this.#smallRounds < SMALL_ROUNDS);
      const going = new Set(clear);
      let moving = clear.length > 0 && aside < least ? NONE : this.#inTheWay(end, going, aside, false);
      if (moving.length === 0 && !isPatient) moving = this.#inTheWay(end, going, aside, true);
      if (moving.length > 0) return { moving, isAside: true };
    }
    if (isSmall) this.#smallRounds++;
    return { moving: Uint32Array.from(clear).sort(), isAside: false };
  }

  /** The step has been taken. */
  taken({ moving, isAside }: Step): void {
    for (const extent of moving) {
      const bytes = this.#extents.lengths[extent]!;
      if (isAside) this.#asideBytes += bytes;
      else {
        if (this.#places[extent] === Place.aside) this.#asideBytes -= bytes;
        this.#leftBytes -= bytes;
      }
      this.#places[extent] = isAside ? Place.aside : Place.final;
    }
    while (this.#next < this.#order.length && this.#places[this.#order[this.#next]!] === Place.final)
      this.#next++;
  }

  /** Takes all steps, in thought: how many there are, and the bytes that they copy. */
  count(roundBytes: number): { rounds: number; bytes: number } {
    let bytes = 0;
    const moves: Omit<ExtentMoves, 'moving'> = {
      extents: this.#extents,
      from: this.#extents.offsets,
      to: this.#targets,
    };
    for (let rounds = 0; ; rounds++) {
      const step = this.next(roundBytes);
      if (step === null) return { rounds, bytes };
      // Where they lie meanwhile makes no difference to what is copied.
      for (const { lengthBytes } of piecesOf({ ...moves, moving: step.moving })) bytes += lengthBytes;
      this.taken(step);
    }
  }

  /**
   * Those that find their places clear, of the next ones: one that waits does not hold up those behind it. `end`: the
   * first in the order that does not go.
   */
  #clear(mostBytes: number): { clear: number[]; end: number; bytes: number } {
    const clear: number[] = [];
    let end = -1;
    let bytes = 0;
    let at = this.#next;
    for (let seen = 0; at < this.#order.length && seen < MOST_BYTES; at++) {
      const extent = this.#order[at]!;
      if (this.#places[extent] === Place.final) continue;
      const length = this.#extents.lengths[extent]!;
      if (clear.length > 0 && bytes + length > mostBytes) break;
      seen += length;
      if (this.#firstAt(extent) < 0) {
        clear.push(extent);
        bytes += length;
      } else if (end < 0) end = at;
    }
    return { clear, end: end < 0 ? at : end, bytes };
  }

  /**
   * What lies where those shall be that come from `end` on, up to `mostBytes` or somewhat more. Only what cannot go
   * before them, themselves included; or, with `all`, whatever is not `going` in this round.
   */
  #inTheWay(end: number, going: ReadonlySet<number>, mostBytes: number, all: boolean): Uint32Array {
    const found = new Set<number>();
    let bytes = 0;
    let seen = 0;
    for (let at = end; at < this.#order.length && seen < MOST_BYTES; at++) {
      // What is in the way of the first has to go.
      if (at > end && bytes >= mostBytes) break;
      const next = this.#order[at]!;
      if (this.#places[next] === Place.final || going.has(next)) continue;
      seen += this.#extents.lengths[next]!;
      for (const extent of this.#allAt(next)) {
        if (going.has(extent) || (!all && this.#positions[extent]! < at) || found.has(extent)) continue;
        found.add(extent);
        bytes += this.#extents.lengths[extent]!;
      }
    }
    return Uint32Array.from(found).sort();
  }

  #firstAt(extent: number): number {
    for (const other of this.#allAt(extent)) return other;
    return -1;
  }

  /** Those that are yet to move and lie where `extent` shall be. */
  *#allAt(extent: number): Iterable<number> {
    const { offsets, longest } = this.#extents;
    const target = this.#targets[extent]!;
    const grain = this.#grainBytes;
    const start = Math.floor(target / grain) * grain;
    const end = Math.ceil((target + this.#extents.lengths[extent]!) / grain) * grain;
    for (let other = firstFrom(offsets, start - longest); other < offsets.length; other++) {
      if (this.#extents.sectorStart(other) >= end) return;
      if (this.#places[other] === Place.origin && this.#extents.end(other) > start) yield other;
    }
  }
}

/** The first of ascending `offsets` that is not below `offset`. */
function firstFrom(offsets: Float64Array, offset: number): number {
  let low = 0;
  let high = offsets.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (offsets[middle]! < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Those that move towards the front, the first places first; those that move towards the end come before, the last
 * first, where that way they make room for each other, else after the others.
 */
function orderOf({ count, offsets, lengths }: Extents, targets: Float64Array): Uint32Array {
  let up = 0;
  let down = 0;
  let upEnd = 0;
  let downStart = Infinity;
  for (let i = 0; i < count; i++) {
    const target = targets[i]!;
    if (target > offsets[i]!) {
      up++;
      upEnd = Math.max(upEnd, target + lengths[i]!);
    } else if (target < offsets[i]!) {
      down++;
      downStart = Math.min(downStart, offsets[i]! - (offsets[i]! % SECTOR));
    }
  }
  const order = new Uint32Array(up + down);
  const isUpFirst = upEnd <= downStart;
  const ups = order.subarray(isUpFirst ? 0 : down, isUpFirst ? up : up + down);
  const downs = order.subarray(isUpFirst ? up : 0, isUpFirst ? up + down : down);
  for (let i = 0, u = 0, d = 0; i < count; i++) {
    if (targets[i]! > offsets[i]!) ups[u++] = i;
    else if (targets[i]! < offsets[i]!) downs[d++] = i;
  }
  if (isUpFirst) ups.reverse();
  else sortBy(targets, ups);
  sortBy(targets, downs);
  return order;
}

/** Often they are in order; a sort takes as much memory again. */
function sortBy(targets: Float64Array, extents: Uint32Array): void {
  const isSorted = extents.every((extent, i) => i === 0 || targets[extents[i - 1]!]! <= targets[extent]!);
  if (!isSorted) extents.sort((a, b) => targets[a]! - targets[b]!);
}
