/** `--dry-run`: the same walk and plan, nothing written. */
import type { BlockDevice } from '../device/block-device.js';
import { requireSound } from '../image/walk.js';
import { type Forecast, forecast } from '../recycler/forecast.js';
import { type Surplus, releaseSurplus } from '../recycler/surplus.js';
import type { Goal } from '../recycler/goal.js';
import type { Transfer } from '../recycler/transfer.js';
import { Volume } from '../recycler/volume.js';
import { holesToFill, littleToReclaim, pinnedRemain } from './notices.js';
import { requireClusterCount, requireSecret, roundBytesOf } from './options.js';
import { type Session, beginSession, countPinsOf, withImageFile } from './session.js';
import type { PlanOptions, PlanResult } from './types.js';
import { unlockData } from './unlock-data.js';

/** What `compact` would do to the image at `path`. Takes the same lock where the file is writable. */
export async function plan(path: string, options: PlanOptions = {}): Promise<PlanResult> {
  requireClusterCount('keepErased', options.keepErased);
  requireSecret(options.secret);
  return withImageFile(path, 'inspect', options, async (device, notices) => {
    const figures = await planDevice(device, options);
    return { ...figures, path, notices: [...notices, ...figures.notices] };
  });
}

/** The same on any block device. */
export async function planDevice(device: BlockDevice, options: PlanOptions = {}): Promise<PlanResult> {
  const keepErased = options.keepErased ?? 0;
  const notices: string[] = [];
  const session = await beginSession(device, options);
  requireSound(session.walked);
  const reencryption = await unlockData(session.image, options.secret, notices);
  const hasKey = reencryption !== null;
  countPinsOf(session, hasKey);
  const { expected, figures } = await planSession(session, options, reencryption);
  const { live, total } = figures.clusters;
  const { junkClusters } = expected.goal;
  if (junkClusters === 0)
    notices.push(...littleToReclaim(keepErased, figures.lengthBefore, figures.lengthAfter, live, total));
  // No more holes move than there are, nor more than moves.
  const holeBytes = Math.max(0, session.lengthBefore - session.allocatedBefore);
  notices.push(...holesToFill(hasKey, Math.min(figures.bytesToCopy, holeBytes)));
  notices.push(...pinnedRemain(figures.pinnedClusters, junkClusters, hasKey));
  options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: 0, bytesTotal: 0 });
  return { ...figures, notices };
}

/** What a run over the image of `session` will do; nothing is written, the surplus included. */
export async function planSession(
  session: Session,
  options: PlanOptions & { roundBytes?: number },
  reencryption: Transfer | null,
): Promise<{ surplus: Surplus; volume: Volume; expected: Forecast; figures: PlanResult }> {
  const surplus = await releaseSurplus(session.image, session.walked, {
    dropPreallocation: options.dropPreallocation ?? false,
  });
  const volume = new Volume(session.image, session.walked.clusters, reencryption);
  const expected = await forecast(volume, options.keepErased ?? 0, roundBytesOf(options));
  return { surplus, volume, expected, figures: planFigures(session, expected, surplus, volume) };
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
  surplus: Pick<Surplus, 'tables' | 'preallocated'>,
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
