/**
 * Which cluster goes where beside clients: what lies last to the first holes, both ascending, so that neighbours stay
 * neighbours. Kinds take turns, so that no table is copied in the round in which what it names moves. Tables of several
 * clusters stay where they are, and so do compressed extents and what a live table may not let go of yet.
 */
import { Kind } from '../../image/host-clusters.js';
import { Pace } from '../../pace.js';
import { State } from '../../recycler/cluster-map.js';
import type { Volume } from '../../recycler/volume.js';

/** Once all of one row lies before the holes, so do those of the next after their turn: one look at each is enough. */
const TURNS: readonly (readonly Kind[])[] = [
  [Kind.data, Kind.bitmapData],
  [Kind.l2Table],
  [Kind.refcountBlock],
];

const MOVABLE = new Set(TURNS.flat());

export interface LivePlan {
  kinds: readonly Kind[];
  /** Ascending, as the destinations are. */
  sources: Uint32Array;
  destinations: Uint32Array;
}

/**
 * At most `mostMoves`, those from the file's end; null where nothing can go nearer to its front. Clients get in between: what
 * they change meanwhile has to be looked at again.
 */
export async function planLive(volume: Volume, mostMoves: number): Promise<LivePlan | null> {
  for (const kinds of TURNS) {
    const plan = await planKinds(volume, kinds, mostMoves);
    if (plan !== null) return plan;
  }
  return null;
}

async function planKinds(
  volume: Volume,
  kinds: readonly Kind[],
  mostMoves: number,
): Promise<LivePlan | null> {
  const sources: number[] = [];
  const destinations: number[] = [];
  const pace = new Pace();
  let hole = volume.map.firstJunk - 1;
  for (let source = volume.map.clusterCount - 1; source > hole && sources.length < mostMoves; source--) {
    if (pace.isOverAfterStep) await pace.giveWay();
    // What lies before it gains nothing by moving.
    if (stays(volume, source)) break;
    if (!mayMove(volume, kinds, source)) continue;
    do {
      hole++;
      if (pace.isOverAfterStep) await pace.giveWay();
    } while (hole < source && !isHole(volume, hole));
    if (hole >= source) break;
    sources.push(source);
    destinations.push(hole);
  }
  if (sources.length === 0) return null;
  return {
    kinds,
    sources: Uint32Array.from(sources.reverse()),
    destinations: Uint32Array.from(destinations),
  };
}

/** The file ends behind it as long as clients are at work. */
function stays({ map, clusters, pins }: Volume, cluster: number): boolean {
  return map.is(cluster, State.live) && (!MOVABLE.has(clusters.kind(cluster)) || pins.has(cluster));
}

/** The last cluster that stays, -1 where there is none. */
export async function lastThatStays(volume: Volume): Promise<number> {
  const pace = new Pace();
  for (let cluster = volume.map.clusterCount - 1; cluster >= 0; cluster--) {
    if (pace.isOverAfterStep) await pace.giveWay();
    if (stays(volume, cluster)) return cluster;
  }
  return -1;
}

/** A count that is not that of the references is to come down: until it has, a pointer on disk may remain. */
export function mayMove(
  { map, clusters, pins, image }: Volume,
  kinds: readonly Kind[],
  cluster: number,
): boolean {
  return (
    map.is(cluster, State.live) &&
    kinds.includes(clusters.kind(cluster)) &&
    image.refcounts.get(cluster) === clusters.refs[cluster] &&
    !pins.has(cluster)
  );
}

export function isHole({ map, image }: Volume, cluster: number): boolean {
  return map.is(cluster, State.junk) && image.refcounts.covers(cluster);
}
