/**
 * Which cluster goes where (design 4.3). Pure: reads the map, writes nothing. Sources at the file's end and
 * holes below the limit are paired in ascending order, so that neighbours stay neighbours and copies coalesce.
 */
import { State } from './cluster-map.js';
import type { Goal } from './goal.js';
import { planRuns } from './run-planner.js';
import type { Run, Volume } from './volume.js';

/** Moves of one plan at most: what bounds its memory (about 40 bytes a move). */
export const MAX_MOVES = 1 << 20;

export interface Plan {
  /** Ascending; a run's clusters are neighbours in both arrays. */
  sources: Uint32Array;
  destinations: Uint32Array;
  /** Clusters that the file must grow by before the moves begin: room for what has to step aside. */
  extendBy: number;
  /** First source clusters of the runs of several clusters: these must not be torn apart by a round. */
  runStarts: Map<number, number>;
}

/** What a cluster is to the planner, beside its state. */
export const Mark = {
  none: 0,
  /** Part of a run of several clusters, or of what waits to be released. */
  fixed: 1,
  /** Wanted for a run: neither destination nor, if live, allowed to stay. */
  reserved: 2,
} as const;

export interface Board {
  volume: Volume;
  goal: Goal;
  marks: Uint8Array;
  /** Runs of several clusters. */
  runs: Run[];
  /** Pairs decided so far, by source. */
  pairs: Map<number, number>;
  /** Live clusters that must go anywhere else, lowest first. */
  evict: number[];
  /** Clusters that the file must grow by. */
  extendBy: number;
}

/** Plans the next moves towards `goal`; a plan without moves means that nothing is left to do or can be done. */
export function planMoves(volume: Volume, goal: Goal, maxMoves = MAX_MOVES, room = MAX_MOVES): Plan {
  const board = setUp(volume, goal);
  const runStarts = planRuns(board);
  const released = markReleased(board);
  const { clusterCount } = volume.map;
  const limit = Math.min(goal.moveLimit, clusterCount);
  const sources = select(Math.max(1, limit), clusterCount, (cluster) => isTailSource(board, cluster));
  const holes = select(1, limit, (cluster) => isHole(board, cluster));
  // What must move only for its count's sake waits for holes: the file grows by one round at most (I10).
  const forced = forcedSources(board);
  const first = [
    ...board.evict,
    ...forced.slice(0, Math.max(0, Math.max(holes.length, room) - board.evict.length)),
  ];
  if (first.length === 0 && runStarts.size === 0 && sources.length > 0 && holes.length === 0) {
    // Every hole is held by a block that cannot be released while its range is in use: it steps aside (I8).
    first.push(...released.filter((cluster) => cluster < limit).slice(0, 1));
  }
  const used = placeFirst(board, first, holes);

  // Too few holes for now: the file's end first, so that its ranges empty from the top.
  const pairs = Math.min(sources.length, holes.length - used);
  const taken = Math.min(pairs, Math.max(0, maxMoves - board.pairs.size));
  const tail = sources.subarray(sources.length - taken);
  return assemble(board, tail, holes.subarray(used + pairs - taken, used + pairs), runStarts);
}

/**
 * What must step aside gets its places first, since the rest waits for the room that it makes: holes below the
 * limit, else beyond it, else new clusters at the end. Answers how many of `holes` it took.
 */
function placeFirst(board: Board, first: number[], holes: Uint32Array): number {
  const { clusterCount } = board.volume.map;
  const { refcounts } = board.volume.image;
  const used = Math.min(first.length, holes.length);
  for (let i = 0; i < used; i++) board.pairs.set(first[i]!, holes[i]!);
  let beyond = board.goal.moveLimit;
  for (let i = used; i < first.length; i++) {
    while (beyond < clusterCount && !isHole(board, beyond)) beyond++;
    if (beyond < clusterCount) board.pairs.set(first[i]!, beyond++);
    else if (refcounts.covers(clusterCount + board.extendBy)) {
      board.pairs.set(first[i]!, clusterCount + board.extendBy++);
    }
  }
  return used;
}

/** The clusters of [from, end) that `wanted` accepts: counted first, so that the array has its exact size. */
function select(from: number, end: number, wanted: (cluster: number) => boolean): Uint32Array {
  let count = 0;
  for (let cluster = from; cluster < end; cluster++) if (wanted(cluster)) count++;
  const selected = new Uint32Array(count);
  for (let cluster = from, at = 0; at < count; cluster++) if (wanted(cluster)) selected[at++] = cluster;
  return selected;
}

function setUp(volume: Volume, goal: Goal): Board {
  const marks = new Uint8Array(volume.map.clusterCount);
  const runs = volume.runs().filter(({ count }) => count > 1);
  for (const { first, count } of runs) marks.fill(Mark.fixed, first, first + count);
  marks[0] = Mark.fixed;
  return { volume, goal, marks, runs, pairs: new Map(), evict: [], extendBy: 0 };
}

/** Blocks beyond the goal are not moved but released, once what they describe has gone. */
function markReleased({ volume, goal, marks }: Board): number[] {
  const { blocks } = volume.image.refcounts;
  const released: number[] = [];
  for (let i = goal.blockCount; i < blocks.length; i++) {
    if (blocks[i] === 0) continue;
    const cluster = blocks[i]! / volume.clusterBytes;
    if (marks[cluster] === Mark.none) marks[cluster] = Mark.fixed;
    released.push(cluster);
  }
  return released.sort((a, b) => b - a);
}

/** Live clusters whose refcount can only be put right by moving them (I3). */
function forcedSources({ volume, marks, goal }: Board): number[] {
  const { clusters, map, image } = volume;
  const forced: number[] = [];
  for (let cluster = 1; cluster < Math.min(goal.moveLimit, map.clusterCount); cluster++) {
    if (!clusters.needsFlag(cluster) || marks[cluster] !== Mark.none) continue;
    if (map.is(cluster, State.live) && image.refcounts.get(cluster) > 1) forced.push(cluster);
  }
  return forced;
}

function isTailSource({ volume, marks }: Board, cluster: number): boolean {
  return marks[cluster] === Mark.none && volume.map.is(cluster, State.live);
}

function isHole({ volume, marks }: Board, cluster: number): boolean {
  return (
    marks[cluster] === Mark.none &&
    volume.map.is(cluster, State.junk) &&
    volume.image.refcounts.covers(cluster)
  );
}

/** All pairs in one order of sources; the few that step aside are merged into the many from the tail. */
function assemble(board: Board, tail: Uint32Array, holes: Uint32Array, runStarts: Map<number, number>): Plan {
  const sources = new Uint32Array(tail.length + board.pairs.size);
  sources.set(tail);
  sources.set([...board.pairs.keys()], tail.length);
  if (board.pairs.size > 0) sources.sort();
  const destinations = new Uint32Array(sources.length);
  for (let i = 0, next = 0; i < sources.length; i++) {
    destinations[i] = board.pairs.get(sources[i]!) ?? holes[next++]!;
  }
  return { sources, destinations, extendBy: board.extendBy, runStarts };
}
