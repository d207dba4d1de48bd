/** `--repair`: mends what can be mended without losing data, and refuses the rest (I6). */
import type { BlockDevice } from '../device/block-device.js';
import { QcowError } from '../errors.js';
import { HostClusters } from '../image/host-clusters.js';
import { type Image, openImage } from '../image/image.js';
import { describeCorruption, walk } from '../image/walk.js';
import { Compaction } from '../recycler/compaction.js';
import type { Transfer } from '../recycler/transfer.js';
import { Volume } from '../recycler/volume.js';
import { diagnose } from '../repair/diagnosis.js';
import { type Mark, marksOf } from '../repair/marks.js';
import { mend } from '../repair/mend.js';
import { leaksRemain } from './notices.js';
import { requireRepairWhat, roundBytesOf } from './options.js';
import { type Session, beginSession, secondsSince, withImageFile } from './session.js';
import { isStopped, stoppedBy } from './stop.js';
import type { CommonOptions, RepairOptions, RepairResult, Repairs } from './types.js';

/**
 * Repairs the image at `path` without compacting it. `leaks` lowers refcounts that are too high; the image is valid at
 * every instant. `all` also mends refcounts that are too low, damaged refcount structures and COPIED flags, and
 * clears the dirty and the corrupt mark: at every instant the guest sees the same, and another repair can begin.
 * @throws QcowError with code CORRUPT, the image untouched, for damage that cannot be mended so
 */
export async function repair(path: string, options: RepairOptions = {}): Promise<RepairResult> {
  requireRepairWhat(options.what);
  return withImageFile(path, 'write', options, async (device) => ({
    ...(await repairDevice(device, options)),
    path,
  }));
}

/** Clusters, and bytes, that are in two places at once while leaks are repaired. */
const LEAST_LEAK_ROUND = 4;
const MOST_LEAK_ROUND_BYTES = 16 << 20;

/** Where leaks take moves. */
interface Tuning {
  /** Most bytes that are in two places at once. */
  roundBytes?: number;
}

/** The same on any block device. */
export async function repairDevice(
  device: BlockDevice,
  options: RepairOptions & Tuning = {},
): Promise<RepairResult> {
  const what = options.what ?? 'all';
  const session = what === 'all' ? await beginRepair(device, options) : await beginSession(device, options);
  if (what === 'leaks') requireLeaksAlone(session);
  let result = await repairSession(session, options);
  // Of what LUKS encrypts, which cannot move: put right in place, as far from any instant of danger as that can be.
  if (what === 'all' && isComplete(result) && result.leaks > 0)
    result = await mendRest(device, options, result);
  if (isComplete(result))
    options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: 0, bytesTotal: 0 });
  return result;
}

function isComplete({ outcome }: RepairResult): boolean {
  return outcome === 'repaired' || outcome === 'clean';
}

/** Either the result of a repair, with what unlocks the data, or a session of an image that needs none. */
export type Repaired =
  { result: RepairResult; unlocked: Transfer | null; session: null } | { result: null; session: Session };

/**
 * What a compaction needs done first. Leaks are left to it. An interrupt waits for the end, since the compaction could
 * not even open the image before that. `unlock`: throws for a secret that does not fit, before anything is changed.
 */
export async function repairBefore(
  device: BlockDevice,
  { onProgress }: CommonOptions,
  unlock: (image: Image) => Promise<Transfer | null>,
): Promise<Repaired> {
  const session = await beginRepair(device, { onProgress });
  if (!needsMending(session)) return { result: null, session };
  const unlocked = await unlock(session.image);
  return { result: await repairSession(session, { onProgress }), unlocked, session: null };
}

/**
 * As for a compaction, which is content with what refcounts describe: only an image that it refuses has to be looked
 * at as a whole.
 */
async function beginRepair(device: BlockDevice, options: CommonOptions): Promise<Session> {
  try {
    const session = await beginSession(device, options);
    if (session.walked.findings.corruptions === 0) return session;
  } catch (error) {
    if (!(error instanceof QcowError) || error.code !== 'CORRUPT') throw error;
  }
  return beginSession(device, {}, { forRepair: true });
}

/** What `before` has left: leaks that no move can put right. */
async function mendRest(
  device: BlockDevice,
  options: RepairOptions,
  before: RepairResult,
): Promise<RepairResult> {
  const session = await beginSession(device, {}, { forRepair: true });
  const after = await finish(session, options, await mendAll(session, options));
  return {
    ...before,
    outcome: after.outcome,
    refcountsRebuilt: after.refcountsRebuilt,
    flagsChanged: after.flagsChanged,
    corruptions: after.corruptions,
    leaks: after.leaks,
    lengthAfter: after.lengthAfter,
    barriers: before.barriers + after.barriers,
    bytesWritten: before.bytesWritten + after.bytesWritten,
    notices: after.notices,
    seconds: Math.round((before.seconds + after.seconds) * 1000) / 1000,
  };
}

async function repairSession(session: Session, options: RepairOptions & Tuning): Promise<RepairResult> {
  const what = options.what ?? 'all';
  const isMending = what === 'all' && needsMending(session);
  const work = isMending ? await mendAll(session, options) : await mendLeaks(session, options);
  return finish(session, options, work);
}

async function finish(session: Session, options: RepairOptions, work: RepairWork): Promise<RepairResult> {
  const what = options.what ?? 'all';
  const { words } = session.walked.findings;
  // Some of it may be done.
  const { corruptions, leaks } = work.isDone
    ? { corruptions: 0, leaks: work.leaksLeft }
    : (await walk(await openImage(session.device, { forRepair: true }))).findings;
  const { changes, barriers, bytesWritten } = session.device;
  return {
    ...session.figures,
    path: '',
    outcome: !work.isDone ? stoppedBy(options.signal) : changes > 0 ? 'repaired' : 'clean',
    what,
    ...work.repairs,
    corruptions,
    leaks,
    findings: words,
    lengthBefore: session.lengthBefore,
    lengthAfter: session.device.lengthBytes,
    barriers,
    bytesWritten,
    notices: work.isDone ? leaksRemain(work.leaksLeft, session.figures.pinnedClusters, false) : [],
    seconds: secondsSince(session.startedAt),
  };
}

function announce({ onProgress }: CommonOptions): void {
  onProgress?.({ phase: 'repair', percent: 0, bytesDone: 0, bytesTotal: 0 });
}

interface RepairWork {
  isDone: boolean;
  repairs: Repairs;
  leaksLeft: number;
}

/** Everything but leaks, which moves put right while the image is valid at every instant. */
function needsMending({ image, walked }: Session): boolean {
  return walked.findings.corruptions > 0 || marksOf(image.header).length > 0;
}

function requireLeaksAlone({ walked: { findings } }: Session): void {
  if (findings.corruptions === 0) return;
  throw new QcowError('CORRUPT', `leaks are not all: ${describeCorruption(findings)}`, {
    hint: 'it was left untouched; `--repair all` mends what can be mended without a loss',
  });
}

async function mendAll(session: Session, options: RepairOptions): Promise<RepairWork> {
  const { image } = session;
  const { findings } = session.walked;
  // What goes by the refcounts is not needed any more: 5 bytes a cluster.
  session.walked = { ...session.walked, clusters: new HostClusters(0) };
  const diagnosis = await diagnose(image);
  // What is refused is refused before this: one line.
  announce(options);
  const marks = marksOf(image.header);
  const isDone = await mend(image, diagnosis, marks, {
    stopped: () => isStopped(options.signal),
    verify: () => verify(session.device),
  });
  const repairs: Repairs = {
    corruptionsFound: findings.corruptions,
    leaksFound: findings.leaks,
    refcountsRebuilt: diagnosis.rebuild,
    flagsChanged: diagnosis.flags.toSet.length + diagnosis.flags.toClear.length,
    marksCleared: isDone ? marks : [],
  };
  return { isDone, repairs, leaksLeft: 0 };
}

/** A mark is only cleared, and success only reported, where the check that anybody can make says so too. */
async function verify(device: BlockDevice): Promise<void> {
  const { findings } = await walk(await openImage(device, { forRepair: true }));
  if (findings.corruptions + findings.leaks === 0) return;
  throw new Error(`the repair did not come out clean: ${findings.words.slice(0, 3).join('; ')}`);
}

/** The file grows by a round at most, where it has no unused clusters: and it does not shrink again. */
function leakRoundBytes({ header, fileClusters }: Image): number {
  const share = Math.floor(fileClusters / 16) * header.clusterBytes;
  return Math.max(LEAST_LEAK_ROUND * header.clusterBytes, Math.min(MOST_LEAK_ROUND_BYTES, share));
}

async function mendLeaks({ image, walked }: Session, options: RepairOptions & Tuning): Promise<RepairWork> {
  announce(options);
  const compaction = new Compaction(new Volume(image, walked.clusters), {
    leaksOnly: true,
    keepErased: 0,
    punch: false,
    roundBytes: roundBytesOf(options, leakRoundBytes(image)),
    runtimeAsserts: options.runtimeAsserts ?? false,
    stopped: () => isStopped(options.signal),
    onMoved: () => undefined,
  });
  const { interrupted, leaksLeft } = await compaction.run();
  const marksCleared: Mark[] = [];
  const repairs = {
    corruptionsFound: 0,
    leaksFound: walked.findings.leaks,
    refcountsRebuilt: false,
    flagsChanged: 0,
    marksCleared,
  };
  return { isDone: !interrupted, repairs, leaksLeft };
}
