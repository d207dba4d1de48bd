/** `--dry-run`: the same walk and plan, nothing written. */
import { requireSound } from '../image/walk.js';
import { type Forecast, forecast } from '../recycler/forecast.js';
import type { Goal } from '../recycler/goal.js';
import { Volume } from '../recycler/volume.js';
import { littleToReclaim } from './notices.js';
import { requireClusterCount } from './options.js';
import { type Session, beginSession, withImageFile } from './session.js';
import type { CommonOptions, PlanResult } from './types.js';

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
    const figures = planFigures(session, await forecast(volume, options.keepErased ?? 0));
    const { live, total } = figures.clusters;
    notices.push(
      ...littleToReclaim(options.keepErased ?? 0, figures.lengthBefore, figures.lengthAfter, live, total),
    );
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
): PlanResult {
  return {
    ...figures,
    path: '',
    lengthBefore,
    lengthAfter: Math.min(lengthBefore, goal.finalClusters * figures.clusterBytes),
    clustersToMove,
    bytesToCopy,
    notices: [],
  };
}
