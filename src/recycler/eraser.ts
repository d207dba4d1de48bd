/** Erasing junk: zeroes over it, or its blocks given back to the host (recycler contract C15 to C18). */
import type { BlockDevice } from '../device/block-device.js';
import { type ClusterMap, State } from './cluster-map.js';
import type { Volume } from './volume.js';
import { ZEROES, writeZeroes } from './zeroes.js';

export interface EraseStep {
  /** Clusters that are erased now. */
  erased: { first: number; count: number }[];
  clusters: number;
  /** Of these, what already read as zeroes because the host file has a hole there. */
  holes: number;
}

/**
 * Takes up to `amount` junk clusters, those at the front first, and makes them read as zeroes: new data come there, and not to
 * the end of a file that is to get shorter.  `described`: only those that have a refcount block. All or nothing: after the first failed write all are junk again and the error goes up (C18).
 */
export async function eraseJunk(
  volume: Volume,
  amount: number,
  punch: boolean,
  described = false,
): Promise<EraseStep> {
  const { map, clusterBytes, device } = volume;
  const taken = takeJunk(volume, amount, described);
  const all = taken.flatMap(({ first, count }) => range(first, count));
  map.transition(all, State.junk, State.held);
  let holes = 0;
  try {
    for (const { first, count } of taken) {
      holes += await eraseInterval(device, first * clusterBytes, count, clusterBytes, punch);
    }
  } catch (error) {
    map.transition(all, State.held, State.junk);
    throw error;
  }
  map.transition(all, State.held, State.erased);
  return { erased: taken, clusters: all.length, holes };
}

/** Clusters to erase so that the pool has `keepErased`, as far as the junk goes (C16). */
export function amountToErase(map: ClusterMap, keepErased: number): number {
  return Math.max(0, Math.min(map.countOf(State.junk), keepErased - map.pooled));
}

function takeJunk(
  { map, image: { refcounts } }: Volume,
  amount: number,
  described: boolean,
): { first: number; count: number }[] {
  const taken: { first: number; count: number }[] = [];
  let left = Math.min(amount, map.countOf(State.junk));
  for (let cluster = map.firstJunk; cluster < map.clusterCount && left > 0; cluster++) {
    if (!map.is(cluster, State.junk) || (described && !refcounts.covers(cluster))) continue;
    const last = taken.at(-1);
    if (last !== undefined && last.first + last.count === cluster) last.count++;
    else taken.push({ first: cluster, count: 1 });
    left--;
  }
  return taken;
}

export function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

/** Erases neighbours in writes of floor(1 MiB / cluster size) clusters; answers how many were holes already. */
export async function eraseInterval(
  device: BlockDevice,
  offset: number,
  count: number,
  clusterBytes: number,
  punch: boolean,
): Promise<number> {
  // The last cluster of the file may be there in part: erasing does not make the file longer.
  const end = Math.min(offset + count * clusterBytes, device.lengthBytes);
  const step = Math.max(1, Math.floor(ZEROES.length / clusterBytes)) * clusterBytes;
  let holes = 0;
  for (let at = offset; at < end;) {
    const data = device.dataExtent(at, end);
    const start = data === null ? end : Math.floor(data.start / clusterBytes) * clusterBytes;
    holes += Math.ceil((start - at) / clusterBytes);
    if (data === null) break;
    const to = Math.min(start + step, Math.ceil(data.end / clusterBytes) * clusterBytes, end);
    if (punch && holdsBlock(device, Math.max(start, data.start), Math.min(to, data.end)) && device.canPunch)
      await device.punch(start, to - start);
    else if (!(await readsAsZeroes(device, start, to - start))) await writeZeroes(device, start, to - start);
    at = to;
  }
  return holes;
}

/** Less than a whole block of the host cannot be given back, so that a second run would find it again. */
function holdsBlock({ blockBytes }: BlockDevice, start: number, end: number): boolean {
  return Math.ceil(start / blockBytes) < Math.floor(end / blockBytes);
}

/** A pool that an earlier run erased is left alone: a second run writes nothing. */
async function readsAsZeroes(device: BlockDevice, offset: number, lengthBytes: number): Promise<boolean> {
  const buffer = new Uint8Array(Math.min(lengthBytes, ZEROES.length));
  for (let at = 0; at < lengthBytes; at += buffer.length) {
    const bytes = buffer.subarray(0, Math.min(buffer.length, lengthBytes - at));
    await device.read(bytes, offset + at);
    if (Buffer.compare(bytes, ZEROES.subarray(0, bytes.length)) !== 0) return false;
  }
  return true;
}
