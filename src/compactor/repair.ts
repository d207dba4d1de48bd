/** `--repair`: mends what can be mended without losing data, and refuses the rest (I6). */
import type { BlockDevice } from '../device/block-device.js';
import { QcowError } from '../errors.js';
import { HostClusters } from '../image/host-clusters.js';
import { openImage } from '../image/image.js';
import { describeCorruption, walk } from '../image/walk.js';
import { Compaction, DEFAULT_ROUND_BYTES } from '../recycler/compaction.js';
import { Volume } from '../recycler/volume.js';
import { diagnose } from '../repair/diagnosis.js';
import { type Mark, marksOf } from '../repair/marks.js';
import { mend } from '../repair/mend.js';
import { leaksRemain } from './notices.js';
import { requireRepairWhat } from './options.js';
import { type Session, beginSession, secondsSince, withImageFile } from './session.js';
import type { CommonOptions, RepairOptions, RepairResult, Repairs } from './types.js';

/**
 * Repairs the image at `path` without compacting it. `leaks` lowers refcounts that are too high; the image is valid at
 * every instant. `all` also mends refcounts that are too low, damaged refcount structures and COPIED flags, and
 * clears the dirty and the corrupt mark: at every instant the guest sees the same, and another repair can begin.
 * @throws QcowError with code CORRUPT, the image untouched, for damage that cannot be mended so
 */
export async function repair(path: string, options: RepairOptions = {}): Promise<RepairResult> {
  requireRepairWhat(options.what);
  return withImageFile(path, 'write', async (device) => ({ ...(await repairDevice(device, options)), path }));
}

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
  const session = await beginSession(device, options, { forRepair: what === 'all' });
  if (what === 'leaks') requireLeaksAlone(session);
  const result = await repairSession(session, options);
  if (result.outcome !== 'interrupted')
    options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: 0, bytesTotal: 0 });
  return result;
}

/**
 * What a compaction needs done first; null where it can begin at once. An interrupt waits for the end, since
 * the compaction could not even open the image before that.
 */
export async function repairBefore(
  device: BlockDevice,
  { onProgress }: CommonOptions,
): Promise<RepairResult | null> {
  const session = await beginSession(device, {}, { forRepair: true });
  return needsMending(session) ? repairSession(session, { onProgress }) : null;
}

async function repairSession(session: Session, options: RepairOptions & Tuning): Promise<RepairResult> {
  const what = options.what ?? 'all';
  const isMending = what === 'all' && needsMending(session);
  const work = isMending ? await mendAll(session, options) : await mendLeaks(session, options);
  const { findings } = session.walked;
  const { changes, barriers, bytesWritten } = session.device;
  return {
    ...session.figures,
    path: '',
    outcome: !work.isDone ? 'interrupted' : changes > 0 ? 'repaired' : 'clean',
    what,
    ...work.repairs,
    corruptions: work.isDone ? 0 : findings.corruptions,
    leaks: work.isDone ? work.leaksLeft : findings.leaks,
    findings: findings.words,
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

/** Everything but leaks that moves can put right. Encrypted data cannot move. */
function needsMending({ image, walked, figures }: Session): boolean {
  const { corruptions, leaks } = walked.findings;
  return corruptions > 0 || marksOf(image.header).length > 0 || (leaks > 0 && figures.pinnedClusters > 0);
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
    stopped: () => options.signal?.aborted ?? false,
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

async function mendLeaks({ image, walked }: Session, options: RepairOptions & Tuning): Promise<RepairWork> {
  announce(options);
  const compaction = new Compaction(new Volume(image, walked.clusters), {
    leaksOnly: true,
    keepErased: 0,
    punch: false,
    roundBytes: options.roundBytes ?? DEFAULT_ROUND_BYTES,
    runtimeAsserts: options.runtimeAsserts ?? false,
    stopped: () => options.signal?.aborted ?? false,
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
