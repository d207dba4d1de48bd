/** An image opened, walked and measured: what every command begins with. */
import type { BlockDevice } from '../device/block-device.js';
import { MeteredDevice } from '../device/metered-device.js';
import { SettlingDevice } from '../device/settling-device.js';
import { StoppableDevice } from '../device/stoppable-device.js';
import { ThrottledDevice } from '../device/throttled-device.js';
import { type OpenMode, openImageFile } from '../device/open-image.js';
import { type Image, type OpenOptions, openImage } from '../image/image.js';
import { type Walk, walk } from '../image/walk.js';
import { countPinned } from '../recycler/pins.js';
import { translateHostError } from './host-errors.js';
import { isStopped } from './stop.js';
import type { CommonOptions, ImageFigures } from './types.js';

export interface Session {
  device: MeteredDevice;
  image: Image;
  walked: Walk;
  figures: ImageFigures;
  lengthBefore: number;
  allocatedBefore: number;
  /** Seconds of the process's life. */
  startedAt: number;
}

/** Opens the image on `device` and walks it; nothing is written. */
export async function beginSession(
  device: BlockDevice,
  options: CommonOptions,
  opening: OpenOptions = {},
): Promise<Session> {
  // Not performance.now(): that loads all of perf_hooks, 3 ms of a start.
  const startedAt = process.uptime();
  options.onProgress?.({ phase: 'walk', percent: 0, bytesDone: 0, bytesTotal: 0 });
  const metered = new MeteredDevice(device);
  const image = await openImage(new SettlingDevice(metered), opening);
  const walked = await walk(image);
  const { header } = image;
  const figures: ImageFigures = {
    formatVersion: header.version,
    clusterBytes: header.clusterBytes,
    virtualBytes: header.virtualBytes,
    snapshotCount: header.snapshotCount,
    pinnedClusters: countPinned(header, walked.clusters, false),
    clusters: {
      total: image.fileClusters,
      live: walked.live,
      junk: walked.junk,
      leaked: walked.findings.leaks,
    },
  };
  return {
    device: metered,
    image,
    walked,
    figures,
    lengthBefore: device.lengthBytes,
    allocatedBefore: device.allocatedBytes(),
    startedAt,
  };
}

/** Without its secret what LUKS encrypts is pinned: the figure follows where there is one. */
export function countPinsOf({ image, walked, figures }: Session, hasKey: boolean): void {
  figures.pinnedClusters = countPinned(image.header, walked.clusters, hasKey);
}

export function secondsSince(startedAt: number): number {
  return Math.round((process.uptime() - startedAt) * 1000) / 1000;
}

/** Opens the file, does `work`, closes it; the host's failures come out as QcowError. */
export async function withImageFile<T>(
  path: string,
  mode: OpenMode,
  options: CommonOptions,
  work: (device: BlockDevice, notices: string[]) => Promise<T>,
): Promise<T> {
  const opened = await openImageFile(path, { mode });
  const notices = opened.locked
    ? []
    : ['the file is read-only and so not locked: the result is only right if nobody writes to the image'];
  try {
    return await work(withBudget(opened.device, mode, options), notices);
  } catch (error) {
    throw translateHostError(error);
  } finally {
    await opened.device.close();
  }
}

/** The engine does not know of the rate. Of the signal it does, where it writes and has barriers to stop at. */
function withBudget(device: BlockDevice, mode: OpenMode, { limiter, signal }: CommonOptions): BlockDevice {
  const stopped = () => isStopped(signal);
  const throttled = limiter === undefined ? device : new ThrottledDevice(device, limiter, stopped);
  return mode === 'write' || signal === undefined ? throttled : new StoppableDevice(throttled, signal);
}
