/** `--dry-run`: the same walk and plan, nothing written. */
import { requireSound } from '../image/walk.js';
import { type Goal, goalFor } from '../recycler/goal.js';
import { expectedMoves } from '../recycler/planner.js';
import { Volume } from '../recycler/volume.js';
import { littleToReclaim, pinnedRemain } from './notices.js';
import { requireClusterCount } from './options.js';
import { type Session, beginSession, withImageFile } from './session.js';
import type { CommonOptions, ImageFigures, PlanResult } from './types.js';

/** What `compact` would do to the image at `path`. Takes the same lock where the file is writable. */
export async function plan(
  path: string,
  options: CommonOptions & { keepErased?: number; punch?: boolean } = {},
): Promise<PlanResult> {
  requireClusterCount('keepErased', options.keepErased);
  return withImageFile(path, 'inspect', async (device, notices) => {
    const session = await beginSession(device, options);
    requireSound(session.walked);
    const volume = new Volume(session.image, session.walked.clusters);
    const figures = planFigures(session, volume, goalFor(volume, options.keepErased ?? 0));
    const { live, total } = figures.clusters;
    const { junkClusters } = goalFor(volume, 0);
    if (junkClusters === 0)
      notices.push(...littleToReclaim(figures.lengthBefore, figures.lengthAfter, live, total));
    notices.push(...pinnedRemain(figures.pinnedClusters, junkClusters));
    options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: 0, bytesTotal: 0 });
    return { ...figures, path, notices };
  });
}

export function planFigures({ figures, lengthBefore }: Session, volume: Volume, goal: Goal): PlanResult {
  return planOf(figures, lengthBefore, goal.finalClusters, expectedMoves(volume, goal));
}

export function planOf(
  figures: ImageFigures,
  lengthBefore: number,
  finalClusters: number,
  clustersToMove: number,
): PlanResult {
  return {
    ...figures,
    path: '',
    lengthBefore,
    lengthAfter: Math.min(lengthBefore, finalClusters * figures.clusterBytes),
    clustersToMove,
    bytesToCopy: clustersToMove * figures.clusterBytes,
    notices: [],
  };
}
