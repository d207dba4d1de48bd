/**
 * The file grows at its end, with the refcount blocks that the new clusters need and a longer refcount table where
 * the present one is full. What is added is junk: a hole, which erasing takes for erased without a write.
 */
import { QcowError } from '../errors.js';
import { MAX_REFCOUNT_TABLE_BYTES } from '../format/header.js';
import { Kind } from '../image/host-clusters.js';
import { MAX_CLUSTERS } from '../image/image.js';
import { State } from './cluster-map.js';
import { range } from './eraser.js';
import type { Recycler } from './recycler.js';
import { createBlocks, withdrawBlocks } from './structures.js';
import { nameTable, readHeaderSector } from './table-move.js';

/** A longer table has so much more room than it needs, so that it seldom has to move. */
const ROOM_TO_GROW = 1.5;

/** Adds at least `clusters` clusters. A crash at any point leaves leaks at most. */
export async function growFile(recycler: Recycler, clusters: number): Promise<void> {
  await recycler.metadata.run(async () => {
    const { map, image } = recycler.volume;
    const { refcounts } = image;
    const end = map.clusterCount + clusters;
    if (end > MAX_CLUSTERS) throw tooLong(`it would have more than ${MAX_CLUSTERS} host clusters`);
    const last = Math.floor((end - 1) / refcounts.perBlock);
    if (last >= refcounts.blocks.length) await lengthenTable(recycler, last + 1);
    if (end > map.clusterCount) await recycler.extendLocked(end - map.clusterCount);
    await describe(recycler);
  });
}

/**
 * The file ends with its last cluster, and not within it: where it ends within a sector, a crash could keep what is
 * written to that sector and lose the length that shows all of it.
 */
export async function completeTail(recycler: Recycler): Promise<void> {
  const { device, clusterBytes } = recycler.volume;
  if (device.lengthBytes % clusterBytes === 0) return;
  await recycler.metadata.run(async () => {
    if (recycler.failure !== null) throw recycler.failure;
    await device.truncate(Math.ceil(device.lengthBytes / clusterBytes) * clusterBytes);
    await recycler.flush();
  });
}

/** Gives every range of the file that has no refcount block one: such a range is all junk. */
export async function describeHoles(recycler: Recycler): Promise<void> {
  await recycler.metadata.run(() => describe(recycler));
}

async function describe(recycler: Recycler): Promise<void> {
  const { map, image } = recycler.volume;
  const { blocks, perBlock } = image.refcounts;
  const missing: number[] = [];
  for (let i = 0; i * perBlock < map.clusterCount; i++) if (blocks[i] === 0) missing.push(i);
  await createBlocks(
    recycler,
    missing,
    missing.map((index) => index * perBlock),
  );
}

/**
 * A table of `entries` entries or more, behind the end of the file: with the blocks that describe it and themselves it
 * begins the first range that the present one has no entry for. Durable before the header names it (I4).
 */
async function lengthenTable(recycler: Recycler, entries: number): Promise<void> {
  const { volume } = recycler;
  const { map, clusterBytes } = volume;
  const { refcounts } = volume.image;
  const index = refcounts.blocks.length;
  const { blocks, tableClusters } = sizeOfTable(index, entries, clusterBytes, refcounts.perBlock);
  const start = index * refcounts.perBlock;
  // A try that failed may have left the file longer.
  const lacking = start + blocks + tableClusters - map.clusterCount;
  if (lacking > 0) await recycler.extendLocked(lacking);
  const places = range(start, blocks + tableClusters);
  const tableOffset = (start + blocks) * clusterBytes;
  map.transition(places, State.junk, State.held);
  refcounts.growTable(tableClusters);
  let header: Uint8Array;
  try {
    for (const [k, cluster] of places.entries()) {
      if (k < blocks) refcounts.addBlock(index + k, cluster * clusterBytes);
      else refcounts.set(cluster, 1);
      volume.clusters.setKind(cluster, k < blocks ? Kind.refcountBlock : Kind.refcountTable);
      volume.clusters.refs[cluster] = 1;
    }
    for (let k = 0; k < blocks; k++) {
      await volume.device.write(refcounts.encodeBlock(index + k), (start + k) * clusterBytes);
    }
    await volume.device.write(refcounts.encodeTable(tableClusters), tableOffset);
    await recycler.writeCounts();
    await recycler.flush();
    header = await readHeaderSector(volume);
  } catch (error) {
    withdrawBlocks(volume, range(index, blocks), places);
    refcounts.shrinkTable(refcounts.tableClusters);
    throw error;
  }
  map.transition(places, State.held, State.live);
  await nameTable(recycler, header, tableOffset, tableClusters);
}

/** Blocks from `index` on, as many as describe themselves and the table behind them. */
function sizeOfTable(
  index: number,
  entries: number,
  clusterBytes: number,
  perBlock: number,
): { blocks: number; tableClusters: number } {
  const perCluster = clusterBytes / 8;
  const most = MAX_REFCOUNT_TABLE_BYTES / clusterBytes;
  for (let blocks = 1; ;) {
    const needed = Math.ceil(Math.max(entries, index + blocks) / perCluster);
    if (needed > most) {
      throw tooLong('its refcount table can describe no more');
    }
    const tableClusters = Math.min(most, Math.ceil(needed * ROOM_TO_GROW));
    const enough = Math.ceil((blocks + tableClusters) / perBlock);
    if (enough <= blocks) return { blocks, tableClusters };
    blocks = enough;
  }
}

function tooLong(why: string): QcowError {
  return new QcowError('UNSUPPORTED', `the image cannot grow: ${why}`, {
    hint: 'compact it, or convert it to one with larger clusters',
  });
}
