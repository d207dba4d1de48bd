/** The main job: compacts an image in place. */
import type { BlockDevice } from '../device/block-device.js';
import type { Image } from '../image/image.js';
import { type Walk, requireSound } from '../image/walk.js';
import { Compaction, type CompactionReport } from '../recycler/compaction.js';
import { goalFor } from '../recycler/goal.js';
import type { Transfer } from '../recycler/transfer.js';
import {
  decidePunch,
  excessRemains,
  holesFilled,
  leaksRemain,
  littleToReclaim,
  pinnedRemain,
} from './notices.js';
import {
  requireBytes,
  requireClusterCount,
  requireRepairWhat,
  requireSecret,
  roundBytesOf,
} from './options.js';
import { planFigures, planSession } from './plan.js';
import { repairBefore } from './repair.js';
import { isAlreadyCompact } from './already-compact.js';
import { type Session, beginSession, countPinsOf, secondsSince, withImageFile } from './session.js';
import { isStopped, stoppedBy } from './stop.js';
import { isBelowThreshold, requireThreshold } from './threshold.js';
import type { CompactOptions, CompactResult, PlanResult, RepairResult, Repairs } from './types.js';
import { unlockData } from './unlock-data.js';

/**
 * Compacts the image at `path`: afterwards it has no leak and no excess cluster, and the guest sees the same.
 * An aborted signal stops at the next barrier and resolves with outcome `interrupted` or `out-of-time`.
 * @throws QcowError; the image is valid whatever happens, and untouched where it was refused
 */
export async function compact(path: string, options: CompactOptions = {}): Promise<CompactResult> {
  requireClusterCount('keepErased', options.keepErased);
  requireBytes('roundBytes', options.roundBytes);
  requireRepairWhat(options.repair);
  requireSecret(options.secret);
  requireThreshold(options.threshold);
  return withImageFile(path, 'write', options, async (device) => ({
    ...(await compactDevice(device, options)),
    path,
  }));
}

/** The same on any block device. */
export async function compactDevice(
  device: BlockDevice,
  options: CompactOptions & { maxMoves?: number } = {},
): Promise<CompactResult> {
  const startedAt = process.uptime();
  const allocatedBefore = device.allocatedBytes();
  const notices: string[] = [];
  const unlock = (image: Image) => unlockData(image, options.secret, notices);
  const before = options.repair === 'all' ? await repairBefore(device, options, unlock) : null;
  const repaired = before?.result ?? null;
  const session = before?.session ?? (await beginSession(device, options));
  const { image, walked, figures } = session;
  const lengthBefore = repaired?.lengthBefore ?? session.lengthBefore;
  requireSound(walked);
  const reencryption = before?.result ? before.unlocked : await unlock(image);
  countPinsOf(session, reencryption !== null);
  const punch = decidePunch(options.punch, session.device, notices);
  // An interrupt is answered, and asserts are made, on the long way only.
  const isShort = options.runtimeAsserts !== true && !isStopped(options.signal);
  const work =
    isShort && isAlreadyCompact(image, walked) && !dropsPreallocation(options, walked)
      ? nothingToDo(session, options)
      : await carryOut(session, options, punch, reencryption);
  const { planned, isPassedUp, report, referencesUpdated, clustersErased, junkClusters } = work;
  const lengthAfter = device.lengthBytes;
  notices.push(...excessRemains(report.excess));
  const hasKey = reencryption !== null;
  if (!report.interrupted && !isPassedUp)
    notices.push(...leaksRemain(report.leaksLeft, figures.pinnedClusters, hasKey));
  const allocatedAfter = device.allocatedBytes();
  notices.push(...holesFilled(hasKey, allocatedBefore, allocatedAfter));
  const isUnchanged = session.device.changes === 0 && repaired === null;
  const left = isPassedUp || report.interrupted ? leftOf(planned, lengthAfter, report) : NOTHING_LEFT;
  const outcome = outcomeOf(work, isUnchanged, options.signal);
  if (outcome === 'clean' || outcome === 'compacted') {
    const { live, total } = figures.clusters;
    notices.push(...pinnedRemain(figures.pinnedClusters, junkClusters, hasKey));
    if (report.excess + junkClusters === 0)
      notices.push(...littleToReclaim(options.keepErased ?? 0, lengthBefore, lengthAfter, live, total));
    const bytes = report.bytesMoved;
    options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: bytes, bytesTotal: bytes });
  }
  return {
    ...planned,
    ...left,
    lengthBefore,
    lengthAfter,
    notices,
    outcome,
    repaired: repairsOf(repaired),
    bytesMoved: report.bytesMoved,
    referencesUpdated,
    clustersErased,
    leaksReclaimed: report.leaksReclaimed,
    leaksLeft: report.leaksLeft,
    excessClusters: report.excess,
    rounds: report.rounds,
    barriers: session.device.barriers + (repaired?.barriers ?? 0),
    bytesShared: session.device.bytesShared,
    bytesWritten: session.device.bytesWritten + (repaired?.bytesWritten ?? 0),
    allocatedBefore,
    allocatedAfter,
    seconds: secondsSince(startedAt),
  };
}

function outcomeOf(
  { isPassedUp, report }: Work,
  isUnchanged: boolean,
  signal: AbortSignal | undefined,
): CompactResult['outcome'] {
  if (isPassedUp) return 'below-threshold';
  if (report.interrupted) return stoppedBy(signal);
  return isUnchanged ? 'clean' : 'compacted';
}

const NOTHING_LEFT = { bytesLeftToReclaim: 0, bytesLeftToMove: 0 };

/** What the plan promised and the file does not show yet. */
function leftOf(planned: PlanResult, lengthAfter: number, { bytesMoved }: CompactionReport) {
  return {
    bytesLeftToReclaim: Math.max(0, lengthAfter - planned.lengthAfter),
    bytesLeftToMove: Math.max(0, planned.bytesToCopy - bytesMoved),
  };
}

function repairsOf(result: RepairResult | null): Repairs | null {
  if (result === null) return null;
  const { corruptionsFound, leaksFound, refcountsRebuilt, flagsChanged, marksCleared } = result;
  return { corruptionsFound, leaksFound, refcountsRebuilt, flagsChanged, marksCleared };
}

function dropsPreallocation({ dropPreallocation }: CompactOptions, { preallocatedTables }: Walk): boolean {
  return dropPreallocation === true && preallocatedTables.length > 0;
}

interface Work {
  planned: PlanResult;
  /** The gain is below the threshold. */
  isPassedUp: boolean;
  report: CompactionReport;
  referencesUpdated: number;
  clustersErased: number;
  /** Unused clusters that pinned ones keep in the file. */
  junkClusters: number;
}

function nothingToDo({ figures, lengthBefore }: Session, options: CompactOptions): Work {
  const goal = { finalClusters: figures.clusters.total };
  const forecast = { goal, clustersToMove: 0, bytesToCopy: 0 };
  const planned = planFigures(
    { figures, lengthBefore },
    forecast,
    { tables: 0, preallocated: 0 },
    { sharesData: false },
  );
  announcePlan(planned, options);
  return nothingDone(planned, false, 0);
}

function nothingDone(planned: PlanResult, isPassedUp: boolean, leaksLeft: number): Work {
  const report = { interrupted: false, rounds: 0, bytesMoved: 0, leaksReclaimed: 0, leaksLeft, excess: 0 };
  return { planned, isPassedUp, report, referencesUpdated: 0, clustersErased: 0, junkClusters: 0 };
}

async function carryOut(
  session: Session,
  options: CompactOptions & { maxMoves?: number },
  punch: boolean,
  reencryption: Transfer | null,
): Promise<Work> {
  const plan = await planSession(session, options, reencryption);
  const { surplus, volume, expected, figures: planned } = plan;
  // Leaks that shall be repaired go by the compaction.
  const mends = options.repair !== undefined && session.walked.findings.leaks > 0;
  if (!mends && isBelowThreshold(options.threshold, planned))
    return nothingDone(nothingReleased(planned), true, session.walked.findings.leaks);
  announcePlan(planned, options);
  const stopped = () => isStopped(options.signal);
  // The first write. Once stopped the compaction does not begin either.
  const begins = !stopped();
  if (begins) await surplus.write();
  let percent = 0;
  const compaction = new Compaction(volume, {
    keepErased: options.keepErased ?? 0,
    punch,
    roundBytes: roundBytesOf(options),
    runtimeAsserts: options.runtimeAsserts ?? false,
    ...(options.maxMoves === undefined ? {} : { maxMoves: options.maxMoves }),
    stopped,
    onMoved: (bytesDone, bytesTotal) => {
      // 100 is said once, after the final barrier (C71).
      percent = Math.max(percent, Math.min(99, Math.floor((100 * bytesDone) / bytesTotal)));
      options.onProgress?.({ phase: 'move', percent, bytesDone, bytesTotal });
    },
  });
  const report = await compaction.run(expected);
  const { referencesUpdated, clustersErased } = compaction.recycler;
  const { junkClusters } = goalFor(volume, 0);
  return {
    planned: begins ? planned : nothingReleased(planned),
    isPassedUp: false,
    report,
    referencesUpdated,
    clustersErased,
    junkClusters,
  };
}

/** What was planned to be given up, and was not. */
function nothingReleased(planned: PlanResult): PlanResult {
  return { ...planned, tablesReleased: 0, preallocationReleased: 0 };
}

function announcePlan({ bytesToCopy }: PlanResult, { onProgress }: CompactOptions): void {
  onProgress?.({ phase: 'plan', percent: 0, bytesDone: 0, bytesTotal: bytesToCopy });
}
