/** What the work in the background does next: a pure function of what it sees (recycler contract C53). */

export interface Look {
  /** Clusters: that are to be ready, and that are erased or available. */
  keepErased: number;
  pool: number;
  junk: number;
  /** Junk, and what of the pool nobody asked for. */
  reclaimable: number;
  /** Compaction begins when more than this is reclaimable; null: never. */
  compactAfter: number | null;
  /** It has begun, and goes on until nothing is left to move. */
  isCompacting: boolean;
  /** What is reclaimable has not changed for a while, or not often enough to wait for it (C54). */
  isStable: boolean;
  /** The last thing that was done was to erase. */
  hasJustErased: boolean;
  hasFlushedMoves: boolean;
  hasUnfinishedMoves: boolean;
  /** The last cluster in use, now and at the last look. */
  last: number;
  lastBefore: number;
}

export type Decision = 'erase' | 'update references' | 'compact' | 'truncate' | 'poll' | 'wait';

export function decide(look: Look): Decision {
  const hasEnough = look.compactAfter !== null && look.reclaimable > look.compactAfter;
  const isTime = look.isCompacting || (hasEnough && look.isStable);
  const due = look.hasFlushedMoves
    ? 'update references'
    : isTime && !look.hasUnfinishedMoves
      ? 'compact'
      : null;
  // A guest that writes empties the pool again and again: the others get every other turn.
  const isPoor = look.pool < look.keepErased && look.junk > 0;
  if (isPoor && (due === null || !look.hasJustErased)) return 'erase';
  if (due !== null) return due;
  if (look.last < look.lastBefore) return 'truncate';
  return hasEnough && !isTime ? 'poll' : 'wait';
}
