/** `--erase-only`: junk clusters read as zeroes afterwards; nothing moves, the file keeps its length. */
import type { BlockDevice } from '../device/block-device.js';
import { requireSound } from '../image/walk.js';
import { State } from '../recycler/cluster-map.js';
import { reclaimLeaks } from '../recycler/leaks.js';
import { eraseInterval } from '../recycler/eraser.js';
import { Recycler } from '../recycler/recycler.js';
import { Volume } from '../recycler/volume.js';
import { decidePunch } from './notices.js';
import { requireClusterCount, roundBytesOf } from './options.js';
import { beginSession, secondsSince, withImageFile } from './session.js';
import { isStopped, stoppedBy } from './stop.js';
import type { EraseOptions, EraseResult } from './types.js';

/** Clusters between two looks at the signal and two reports of progress. */
const STEP_BYTES = 64 << 20;

/** Erases junk in the image at `path`, or as much of it as `keepErased` says. */
export async function eraseJunk(path: string, options: EraseOptions = {}): Promise<EraseResult> {
  requireClusterCount('keepErased', options.keepErased);
  return withImageFile(path, 'write', options, async (device) => ({
    ...(await eraseDevice(device, options)),
    path,
  }));
}

/** The same on any block device. */
export async function eraseDevice(device: BlockDevice, options: EraseOptions = {}): Promise<EraseResult> {
  const session = await beginSession(device, options);
  const { image, walked, figures, startedAt } = session;
  requireSound(walked);
  const notices: string[] = [];
  const punch = decidePunch(options.punch, session.device, notices);
  const volume = new Volume(image, walked.clusters);
  const recycler = new Recycler(volume);
  const { clusterBytes } = volume;
  const leaks = reclaimLeaks(volume);
  const wanted = Math.min(options.keepErased ?? Infinity, figures.clusters.junk);
  const perStep = Math.max(1, Math.floor(roundBytesOf(options, STEP_BYTES) / clusterBytes));

  let done = 0;
  let holes = 0;
  const stopped = () => isStopped(options.signal);
  const step = (clusters: number, alreadyHoles: number) => {
    done += clusters;
    holes += alreadyHoles;
    const percent = Math.min(99, Math.floor((100 * done) / wanted));
    const bytesTotal = wanted * clusterBytes;
    options.onProgress?.({ phase: 'erase', percent, bytesDone: done * clusterBytes, bytesTotal });
  };
  while (done < wanted && volume.map.countOf(State.junk) > 0 && !stopped()) {
    const { clusters, holes: found } = await recycler.erase(Math.min(perStep, wanted - done), punch);
    step(clusters, found);
  }
  // The end of the file that no refcount block describes is junk too. Holes in it may be of any length.
  for (let at = image.mappedClusters; at < image.fileClusters && done < wanted && !stopped();) {
    const most = Math.min(wanted - done, image.fileClusters - at);
    const hole = holeAt(session.device, at, most, clusterBytes);
    const count = hole > 0 ? hole : Math.min(perStep, most);
    step(
      count,
      hole > 0 ? hole : await eraseInterval(session.device, at * clusterBytes, count, clusterBytes, punch),
    );
    at += count;
  }
  await recycler.writeCounts();
  if (session.device.changes > 0) await recycler.flush();
  const outcome =
    stopped() && done < wanted
      ? stoppedBy(options.signal)
      : session.device.changes === 0
        ? 'clean'
        : 'erased';
  const isDone = outcome === 'clean' || outcome === 'erased';
  if (isDone) {
    const bytes = done * clusterBytes;
    options.onProgress?.({ phase: 'finish', percent: 100, bytesDone: bytes, bytesTotal: bytes });
  }
  return {
    ...figures,
    path: '',
    outcome,
    clustersErased: done,
    clustersLeft: isDone ? 0 : wanted - done,
    clustersAlreadyHoles: holes,
    bytesWritten: session.device.bytesWritten,
    method: punch && !session.device.cannotPunch ? 'punch' : 'write',
    leaksReclaimed: leaks.found - leaks.pending,
    notices,
    seconds: secondsSince(startedAt),
  };
}

/** How many whole clusters from `first` on are a hole of the host file, of at most `count`. */
function holeAt(device: BlockDevice, first: number, count: number, clusterBytes: number): number {
  const data = device.dataExtent(first * clusterBytes, (first + count) * clusterBytes);
  return data === null ? count : Math.floor(data.start / clusterBytes) - first;
}
