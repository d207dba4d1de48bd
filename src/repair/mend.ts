/**
 * The writes of a repair, in their order. At every instant the guest sees the same disk, the refcounts are wholly
 * the old or wholly the new ones, and another repair, ours or QEMU's, starts as well as this one did.
 */
import type { HostClusters } from '../image/host-clusters.js';
import type { Image } from '../image/image.js';
import type { Diagnosis } from './diagnosis.js';
import { writeFlags } from './flags.js';
import { type Mark, clearMarks } from './marks.js';
import type { Placement } from './placement.js';
import { switchStructures, writeStructures } from './rebuild.js';

export interface MendingHost {
  /** Asked at every barrier: true ends the repair there. */
  stopped: () => boolean;
  /** Throws unless a new walk finds the image clean. Nothing calls it so before that. */
  verify: () => Promise<void>;
}

/** Answers whether it came to its end. */
export async function mend(
  image: Image,
  { clusters, rebuild, flags }: Diagnosis,
  marks: readonly Mark[],
  { stopped, verify }: MendingHost,
): Promise<boolean> {
  const { device, header } = image;
  if (stopped()) return false;
  // A flag that is wrongly set lets QEMU write where others read: it goes first.
  await writeFlags(device, flags.toClear, false);
  if (rebuild) {
    const placement = await writeOrGiveBack(image, clusters);
    await device.flush();
    if (stopped()) return false;
    await switchStructures(device, placement, header.clusterBytes);
    await device.flush();
    // No stop here: until the flags follow, refcounts of 1 lack theirs.
  }
  // Only now is the refcount 1 that it speaks of.
  await writeFlags(device, flags.toSet, true);
  await device.flush();
  if (stopped()) return false;
  await verify();
  if (marks.length > 0) {
    await clearMarks(device, marks);
    await device.flush();
  }
  return true;
}

/** On a host that is full the file is as long as it was afterwards: nothing names what was written. */
async function writeOrGiveBack(image: Image, clusters: HostClusters): Promise<Placement> {
  const { device } = image;
  const { lengthBytes } = device;
  try {
    return await writeStructures(image, clusters);
  } catch (error) {
    if (device.lengthBytes > lengthBytes) await device.truncate(lengthBytes).catch(() => undefined);
    throw error;
  }
}
