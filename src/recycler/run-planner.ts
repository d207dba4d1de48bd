/**
 * Places for tables of several clusters, which must stay contiguous (design 4.3): a window below the limit,
 * cleared of single clusters first where it is not free. Where the runs themselves stand in each other's way
 * they are all brought to the front, one beside the other.
 */
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { atTheEnd, type Board, Mark } from './planner.js';
import type { Run } from './volume.js';

/** Windows that one plan clears: each is a search through the whole file, and the next plan goes on. */
const MOST_CLEARED = 64;

/**
 * Plans the runs that reach beyond the limit. Fills `board.pairs` with those that can move now and
 * `board.evict` with the single clusters that stand in a window. Answers source start -> length.
 */
export function planRuns(board: Board): Map<number, number> {
  const { goal } = board;
  const starts = new Map<number, number>();
  const wanted = board.runs
    .filter((run) => run.first + run.count > goal.moveLimit && !awaitsShrinking(board, run))
    // The longest first: windows for them are the scarcest.
    .sort((a, b) => b.count - a.count || a.first - b.first);
  const end = Math.min(goal.moveLimit, board.marks.length);
  /** Length of a run -> where the next free window of that length can begin: what lies before has been looked at. */
  const freeFrom = new Map<number, number>();
  let cleared = 0;
  for (const run of wanted) {
    const from = freeFrom.get(run.count) ?? 1;
    let window = findWindow(board, run.count, from, end);
    if (window === null || !isFree(board, window, run.count)) {
      freeFrom.set(run.count, end);
      if (cleared++ === MOST_CLEARED) break;
      if (from > 1) window = findWindow(board, run.count, 1, end);
      if (window === null && board.volume.pins.count > 0) {
        window = firstWindow(board, run.count, run.first);
        if (window === null) {
          board.stuck += run.count;
          continue;
        }
      }
      if (window === null) return bringToFront(board);
    } else freeFrom.set(run.count, window + run.count);
    claim(board, window, run, starts);
  }
  return starts;
}

/**
 * The refcount table moves when it has its final length: releasing its tail comes first. But where it lies in
 * a range that only its tail describes, as QEMU places a grown table, the tail waits for the table to go.
 */
function awaitsShrinking({ volume, goal }: Board, run: Run): boolean {
  if (run.kind !== Kind.refcountTable || run.count <= goal.tableClusters) return false;
  const keptEntries = (goal.tableClusters * volume.clusterBytes) / 8;
  return Math.floor((run.first + run.count - 1) / volume.image.refcounts.perBlock) < keptEntries;
}

/** Reserves the window; the run moves there now if it is free, or when those in it have stepped aside. */
function claim(board: Board, window: number, run: Run, starts: Map<number, number>): void {
  const { map } = board.volume;
  let free = true;
  for (let cluster = window; cluster < window + run.count; cluster++) {
    board.marks[cluster] = Mark.reserved;
    if (map.is(cluster, State.junk)) continue;
    free = false;
    board.evict.push(cluster);
  }
  if (!free) return;
  starts.set(run.first, run.count);
  for (let i = 0; i < run.count; i++) board.pairs.set(run.first + i, window + i);
}

/** Moves that it takes to free `cluster` for a table; Infinity where it cannot be. */
function costOf({ volume, marks }: Board, cluster: number): number {
  if (marks[cluster] !== Mark.none || !volume.image.refcounts.covers(cluster)) return Infinity;
  return volume.map.is(cluster, State.junk) ? 0 : 1;
}

/** Start of the stretch of `length` clusters in [from, end) with the fewest live ones to move; null if none. */
function findWindow(board: Board, length: number, from: number, end: number): number | null {
  let best: number | null = null;
  let bestCost = Infinity;
  let cost = 0;
  let barred = 0;
  for (let cluster = from; cluster < end; cluster++) {
    const entering = costOf(board, cluster);
    if (entering === Infinity) barred++;
    else cost += entering;
    const leavingAt = cluster - length;
    if (leavingAt >= from) {
      const leaving = costOf(board, leavingAt);
      if (leaving === Infinity) barred--;
      else cost -= leaving;
    }
    if (leavingAt + 1 < from || barred > 0 || cost >= bestCost) continue;
    best = leavingAt + 1;
    bestCost = cost;
    if (cost === 0) break;
  }
  return best;
}

/** Start of the first stretch before `end` that a table can get: for where pinned clusters leave none below the limit. */
function firstWindow(board: Board, length: number, end: number): number | null {
  for (let cluster = 1, from = 1; cluster < end; cluster++) {
    if (costOf(board, cluster) === Infinity) from = cluster + 1;
    else if (cluster + 1 - from === length) return from;
  }
  return null;
}

/**
 * No window is left since runs lie in between: all of them get places at the front, longest first.
 * What lies there steps aside, runs to beyond the front; a later plan then finds the places free.
 */
function bringToFront(board: Board): Map<number, number> {
  const { volume, marks } = board;
  const { map } = volume;
  const starts = new Map<number, number>();
  board.pairs.clear();
  board.evict.length = 0;
  for (let i = 1; i < marks.length; i++) if (marks[i] === Mark.reserved) marks[i] = Mark.none;

  const ordered = [...board.runs].sort((a, b) => b.count - a.count || a.first - b.first);
  const total = ordered.reduce((sum, run) => sum + run.count, 0);
  const front = frontFor(board, total);
  board.crowded = front === null || front + total > board.goal.moveLimit;
  if (front === null) return starts;
  const frontEnd = front + total;
  // Equal lengths keep their order, so the places are the same in every plan until all are taken.
  const places = assignPlaces(ordered, front);
  const ownerOf = new Map<number, Run>();
  for (const run of board.runs) for (let i = 0; i < run.count; i++) ownerOf.set(run.first + i, run);
  const aside = new Set<Run>();
  for (const [run, place] of places) {
    if (run.first === place) continue;
    let free = true;
    for (let cluster = place; cluster < place + run.count; cluster++) {
      if (map.is(cluster, State.junk) && volume.image.refcounts.covers(cluster)) continue;
      free = false;
      const owner = ownerOf.get(cluster);
      if (owner !== undefined) aside.add(owner);
      else if (map.is(cluster, State.live)) board.evict.push(cluster);
    }
    if (free) {
      starts.set(run.first, run.count);
      for (let i = 0; i < run.count; i++) board.pairs.set(run.first + i, place + i);
    }
  }
  for (let cluster = front; cluster < frontEnd; cluster++)
    if (marks[cluster] === Mark.none) marks[cluster] = Mark.reserved;
  for (const run of aside) {
    if (starts.has(run.first)) continue;
    let window = findWindow(board, run.count, frontEnd, marks.length);
    if (window === null || !isFree(board, window, run.count)) window = atTheEnd(board, run.count);
    if (window === null) {
      board.lacks += run.count;
      continue;
    }
    marks.fill(Mark.reserved, window, window + run.count);
    starts.set(run.first, run.count);
    for (let i = 0; i < run.count; i++) board.pairs.set(run.first + i, window + i);
  }
  // Nothing is gained by clearing the front for tables that cannot leave it.
  if (board.lacks > 0 && starts.size === 0) board.evict.length = 0;
  return starts;
}

/** Where `length` clusters hold nothing compressed, which cannot step aside: cluster 1, or behind all that. */
function frontFor({ volume: { map }, containers }: Board, length: number): number | null {
  let front = 1;
  for (const cluster of containers()) {
    if (cluster >= front + length) break;
    front = cluster + 1;
  }
  return front + length > map.clusterCount ? null : front;
}

function isFree(board: Board, first: number, count: number): boolean {
  for (let cluster = first; cluster < first + count; cluster++) {
    if (!board.volume.map.is(cluster, State.junk)) return false;
  }
  return true;
}

/** Places from cluster `front` on; a run that lies at the start of a place of its length keeps it. */
function assignPlaces(ordered: Run[], front: number): Map<Run, number> {
  const places = new Map<Run, number>();
  for (let i = 0, at = front; i < ordered.length;) {
    const length = ordered[i]!.count;
    let end = i;
    while (end < ordered.length && ordered[end]!.count === length) end++;
    const group = ordered.slice(i, end);
    const free = new Set(group.map((_, k) => at + k * length));
    const homeless: Run[] = [];
    for (const run of group) {
      if (free.delete(run.first)) places.set(run, run.first);
      else homeless.push(run);
    }
    const rest = [...free];
    for (const [k, run] of homeless.entries()) places.set(run, rest[k]!);
    at += group.length * length;
    i = end;
  }
  return places;
}
