/** `--dry-run`: the same walk and plan, nothing written. */
import { requireSound } from '../image/walk.js';
import { type Forecast, forecast } from '../recycler/forecast.js';
import { type Surplus, releaseSurplus } from '../recycler/surplus.js';
import type { Goal } from '../recycler/goal.js';
import { Volume } from '../recycler/volume.js';
import { littleToReclaim, pinnedRemain } from './notices.js';
import { requireClusterCount, requireSecret } from './options.js';
import { type Session, beginSession, withImageFile } from './session.js';
import type { PlanOptions, PlanResult } from './types.js';
import { unlockData } from './unlock-data.js';

/** What `compact` would do to the image at `path`. Takes the same lock where the file is writable. */
export async function plan(path: string, options: PlanOptions = {}): Promise<PlanResult> {
  requireClusterCount('keepErased', options.keepErased);
  requireSecret(options.secret);
  return withImageFile(path, 'inspect', async (device, notices) => {
    const session = await beginSession(device, options);
    requireSound(session.walked);
    const reencryption = await unlockData(session, options.secret, notices);
    const surplus = await releaseSurplus(session.image, session.walked, {
      dropPreallocation: options.dropPreallocation ?? false,
      write: false,
    });
    const volume = new Volume(session.image, session.walked.clusters, reencryption);
    const expected = await forecast(volume, options.keepErased ?? 0);
    const figures = planFigures(session, expected, surplus, volume);
    const { live, total } = figures.clusters;
    const { junkClusters } = expected.goal;
    const keepErased = options.keepErased ?? 0;
    if (junkClusters === 0)
      notices.push(...littleToReclaim(keepErased, figures.lengthBefore, figures.lengthAfter, live, total));
    notices.push(...pinnedRemain(figures.pinnedClusters, junkClusters, reencryption !== null));
    options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: 0, bytesTotal: 0 });
    return { ...figures, path, notices };
  });
}

export function planFigures(
  { figures, lengthBefore }: Pick<Session, 'figures' | 'lengthBefore'>,
  {
    goal,
    clustersToMove,
    bytesToCopy,
  }: Pick<Forecast, 'clustersToMove' | 'bytesToCopy'> & {
    goal: Pick<Goal, 'finalClusters'>;
  },
  surplus: Surplus,
  volume: Pick<Volume, 'sharesData'>,
): PlanResult {
  return {
    ...figures,
    path: '',
    lengthBefore,
    lengthAfter: Math.min(lengthBefore, goal.finalClusters * figures.clusterBytes),
    clustersToMove,
    bytesToCopy,
    tablesReleased: surplus.tables,
    preallocationReleased: surplus.preallocated,
    movesBy: clustersToMove > 0 && volume.sharesData ? 'sharing' : 'copying',
    notices: [],
  };
}
