/**
 * The way out where no cluster can move although the file is too long: what should be released waits for what
 * should move, and that waits for the room which the release would make (I8).
 */
import { type Board, isHole, placeBeyond } from './planner.js';

/**
 * Adds moves to `board.pairs`. First out of the last range that is to go, into a lower range: then its block can
 * be released. Else the lowest block that waits for its release leaves its place to a source.
 * `released`: clusters of refcount blocks beyond the goal; `sources`: what is to move, ascending.
 */
export function breakStandstill(board: Board, released: number[], sources: Uint32Array): void {
  const { goal, volume, pairs } = board;
  const { perBlock } = volume.image.refcounts;
  const rangeOf = (cluster: number) => Math.floor(cluster / perBlock);
  const isGoing = (cluster: number) => rangeOf(cluster) >= goal.blockCount;
  const inTheWay = [...released.filter(isGoing), ...sources.filter(isGoing)];
  const last = inTheWay.reduce((range, cluster) => Math.max(range, rangeOf(cluster)), 0);
  let place = 1;
  for (const cluster of inTheWay.filter((each) => rangeOf(each) === last).sort((a, b) => a - b)) {
    while (place < last * perBlock && !isHole(board, place)) place++;
    if (place === last * perBlock) break;
    pairs.set(cluster, place++);
  }
  if (pairs.size > 0 || sources.length === 0) return;

  const below = released.filter((cluster) => cluster < goal.moveLimit).sort((a, b) => b - a);
  if (below.length === 0) return;
  // The file grows for it only where it then gets shorter: where every source that holds up a release finds a place.
  const mayGrow = sources.filter(isGoing).length <= below.length;
  const aside = placeBeyond(board, goal.moveLimit, mayGrow);
  if (aside !== null) pairs.set(below[0]!, aside);
  else if (mayGrow) board.lacks++;
}
