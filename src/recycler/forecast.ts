/** What a run will do to a volume, before it does anything: for `--dry-run`, and for the total that progress needs. */
import { type Goal, goalFor } from './goal.js';
import { expectedMoves } from './planner.js';
import { type RepackPlan, planRepack } from './repack-plan.js';
import type { Volume } from './volume.js';

export interface Forecast {
  /** With what the repacking frees. */
  goal: Goal;
  /** Null where compressed extents stay where they are. */
  repack: RepackPlan | null;
  /** Whole clusters; compressed extents move by bytes. */
  clustersToMove: number;
  bytesToCopy: number;
}

/** `roundBytes`: how much may be in two places at once. */
export async function forecast(volume: Volume, keepErased: number, roundBytes: number): Promise<Forecast> {
  const repack = await planRepack(volume, keepErased, roundBytes);
  const goal = goalFor(volume, keepErased, repack?.savedClusters);
  const clustersToMove = expectedMoves(volume, goal) + (repack?.inTheWay ?? 0);
  const bytesToCopy = clustersToMove * volume.clusterBytes + (repack?.bytesToCopy ?? 0);
  return { goal, repack, clustersToMove, bytesToCopy };
}
