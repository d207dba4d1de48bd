/**
 * Which cluster goes where (design 4.3). Pure: reads the map, writes nothing. Sources at the file's end and
 * holes below the limit are paired in ascending order, so that neighbours stay neighbours and copies coalesce.
 */
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import type { Goal } from './goal.js';
import { planRuns } from './run-planner.js';
import { breakStandstill } from './standstill.js';
import type { Run, Volume } from './volume.js';

/** Moves of one plan at most: what bounds its memory (about 40 bytes a move). */
export const MAX_MOVES = 1 << 20;

/** So many plans more are cheaper than copying clusters twice. */
const PLANS_TO_SPARE = 8;

export interface Plan {
  /** Ascending; a run's clusters are neighbours in both arrays. */
  sources: Uint32Array;
  destinations: Uint32Array;
  /** Clusters that the file must grow by before the moves begin: room for what has to step aside. */
  extendBy: number;
  /** First source clusters of the runs of several clusters: these must not be torn apart by a round. */
  runStarts: Map<number, number>;
  /** Neighbouring clusters for which a place is lacking: ranges after the file's end need refcount blocks. */
  lacks: number;
}

export interface PlanLimits {
  /** Moves at most. */
  maxMoves?: number;
  /** Clusters that the file may grow by for the sake of refcounts. */
  room?: number;
  /** Moves at most that only put a refcount right: less than all while the host has no room for them (I10). */
  mostForced?: number;
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
  /** Clusters that found no place to step aside to. */
  lacks: number;
  /** Clusters that hold compressed extents: they stay (repack.ts). */
  containers: () => Iterable<number>;
  /** Tables lie beyond the limit, and not even all of them side by side find a place below it. */
  crowded: boolean;
  /** Clusters of the tables that find no place nearer to the front, since pinned clusters leave none. */
  stuck: number;
}

/** Plans the next moves towards `goal`; a plan without moves means that nothing is left to do or can be done. */
export function planMoves(volume: Volume, goal: Goal, limits: PlanLimits = {}): Plan {
  const { maxMoves = MAX_MOVES, room = MAX_MOVES, mostForced = Infinity } = limits;
  const board = setUp(volume, goal);
  const runStarts = planRuns(board);
  const released = markReleased(board);
  const { clusterCount } = volume.map;
  const limit = Math.min(goal.moveLimit, clusterCount);
  const sources = select(Math.max(1, limit), clusterCount, (cluster) => isTailSource(board, cluster));
  const holes = select(1, limit, (cluster) => isHole(board, cluster));
  const forced = forcedSources(board);
  const now = forcedAtOnce(forced.length, holes.length - board.evict.length, room);
  const first = [...board.evict, ...forced.slice(0, Math.min(mostForced, now))];
  const used = placeFirst(board, first, holes);
  if (board.pairs.size === 0 && (sources.length === 0 || holes.length === 0)) {
    breakStandstill(board, released, sources);
  }

  // Too few holes for now: the file's end first, so that its ranges empty from the top.
  const pairs = Math.min(sources.length, holes.length - used);
  const taken = Math.min(pairs, Math.max(0, maxMoves - board.pairs.size));
  const tail = sources.subarray(sources.length - taken);
  return assemble(board, tail, holes.subarray(used + pairs - taken, used + pairs), runStarts);
}

/**
 * How many of what moves only for its count's sake moves in one plan. Each leaves a hole for the next, so that
 * holes are enough unless they are so few that it takes many plans; then others go beyond the limit for a while,
 * a round of them at most (I10), and are copied twice.
 */
function forcedAtOnce(forced: number, holes: number, room: number): number {
  const wanted = Math.min(forced, room);
  return Math.max(0, holes * PLANS_TO_SPARE < wanted ? wanted : Math.min(forced, holes));
}

/**
 * Clusters that a run towards `goal` will copy, as far as the first plan tells: the file's end, tables and what
 * stands in their windows, and what moves for its refcount's sake. More where a table has to go by a detour.
 */
export function expectedMoves(volume: Volume, goal: Goal, room = MAX_MOVES): number {
  const board = setUp(volume, goal);
  planRuns(board);
  markReleased(board);
  const forced = forcedSources(board).length;
  const limit = Math.min(goal.moveLimit, volume.map.clusterCount);
  let holes = -board.evict.length;
  if (forced > 0) for (let cluster = 1; cluster < limit; cluster++) if (isHole(board, cluster)) holes++;
  const twice = Math.max(0, forcedAtOnce(forced, holes, room) - Math.max(0, holes));
  let moves = board.evict.length + forced + twice;
  for (let cluster = limit; cluster < volume.map.clusterCount; cluster++) {
    if (isTailSource(board, cluster)) moves++;
  }
  const beyond = board.runs.filter(({ first, count }) => first + count > goal.moveLimit);
  const inRuns = beyond.reduce(
    (sum, { kind, count }) =>
      sum + (kind === Kind.refcountTable ? Math.min(count, goal.tableClusters) : count),
    0,
  );
  return moves + Math.max(board.pairs.size, inRuns - board.stuck);
}

/**
 * What must step aside gets its places first, since the rest waits for the room that it makes: holes below the
 * limit, else beyond it, else new clusters at the end. Answers how many of `holes` it took.
 */
function placeFirst(board: Board, first: number[], holes: Uint32Array): number {
  const used = Math.min(first.length, holes.length);
  for (let i = 0; i < used; i++) board.pairs.set(first[i]!, holes[i]!);
  let beyond = board.goal.moveLimit;
  for (let i = used; i < first.length; i++) {
    const place = placeBeyond(board, beyond);
    if (place === null) {
      // Those that found a place make room for the others.
      if (board.pairs.size === 0) board.lacks++;
      break;
    }
    board.pairs.set(first[i]!, place);
    beyond = place + 1;
  }
  return used;
}

/** The first hole from cluster `from` on, else a new cluster at the end of the file; null where nothing describes one. */
export function placeBeyond(board: Board, from: number, mayGrow = true): number | null {
  const { clusterCount } = board.volume.map;
  for (let cluster = from; cluster < clusterCount; cluster++) if (isHole(board, cluster)) return cluster;
  return mayGrow ? atTheEnd(board, 1) : null;
}

/** New clusters at the end of the file, as far as a refcount block describes them; null where none does. */
export function atTheEnd(board: Board, count: number): number | null {
  const first = board.volume.map.clusterCount + board.extendBy;
  for (let i = 0; i < count; i++) if (!board.volume.image.refcounts.covers(first + i)) return null;
  board.extendBy += count;
  return first;
}

/** The clusters of [from, end) that `wanted` accepts: counted first, so that the array has its exact size. */
function select(from: number, end: number, wanted: (cluster: number) => boolean): Uint32Array {
  let count = 0;
  for (let cluster = from; cluster < end; cluster++) if (wanted(cluster)) count++;
  const selected = new Uint32Array(count);
  for (let cluster = from, at = 0; at < count; cluster++) if (wanted(cluster)) selected[at++] = cluster;
  return selected;
}

/**
 * Whether all tables of several clusters find places below the limit once compressed extents are in `containers` and
 * nowhere else; a table that lies there now has to leave.
 */
export function tablesHaveRoom(volume: Volume, goal: Goal, containers: () => Iterable<number>): boolean {
  const board = setUp(volume, goal, containers);
  const isTaken = new Uint8Array(board.marks.length);
  for (const cluster of containers()) isTaken[cluster] = 1;
  let outside = board.marks.length;
  for (const run of board.runs) {
    if (!isTaken.subarray(run.first, run.first + run.count).includes(1)) continue;
    run.first = outside;
    outside += run.count;
  }
  planRuns(board);
  return !board.crowded;
}

function setUp(
  volume: Volume,
  goal: Goal,
  containers: () => Iterable<number> = () => volume.clusters.ofKind(Kind.compressed),
): Board {
  const marks = new Uint8Array(volume.map.clusterCount);
  const runs = volume.runs().filter(({ count }) => count > 1);
  for (const { first, count } of runs) marks.fill(Mark.fixed, first, first + count);
  marks[0] = Mark.fixed;
  for (const cluster of containers()) marks[cluster] = Mark.fixed;
  for (const cluster of volume.pins.clusters()) marks[cluster] = Mark.fixed;
  return {
    volume,
    goal,
    marks,
    runs,
    containers,
    crowded: false,
    pairs: new Map(),
    evict: [],
    extendBy: 0,
    lacks: 0,
    stuck: 0,
  };
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

export function isHole({ volume, marks }: Board, cluster: number): boolean {
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
  return { sources, destinations, extendBy: board.extendBy, runStarts, lacks: board.lacks };
}
