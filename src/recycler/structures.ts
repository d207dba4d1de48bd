/**
 * The refcount structures' own size (design 5): blocks for ranges that will hold live clusters, none for
 * ranges that will not, and a table no longer than that needs.
 */
import { SECTOR } from '../device/block-device.js';
import { Kind } from '../image/host-clusters.js';
import { REFCOUNT_TABLE_CLUSTERS_AT } from '../format/header.js';
import { viewOf } from '../format/words.js';
import type { Goal } from './goal.js';
import { State } from './cluster-map.js';
import type { Recycler } from './recycler.js';
import type { Volume } from './volume.js';
import { range } from './eraser.js';

const ENTRIES_PER_SECTOR = SECTOR / 8;

/**
 * Gives each range below the goal that has no refcount block one: at the range's own first cluster, which it
 * describes itself. The block is durable before the table names it; the next barrier covers that entry.
 */
export async function createMissingBlocks(recycler: Recycler, goal: Goal): Promise<number> {
  const { volume } = recycler;
  const { refcounts } = volume.image;
  const missing: number[] = [];
  for (let i = 0; i < goal.blockCount; i++) if ((refcounts.blocks[i] ?? 0) === 0) missing.push(i);
  await createBlocks(
    recycler,
    missing,
    missing.map((index) => index * refcounts.perBlock),
  );
  return missing.length;
}

/**
 * Lets the file grow into ranges that get refcount blocks, for `clusters` neighbours: room for what must step aside
 * where all that is described is in use. The blocks are released like any others when their ranges are free again.
 * False where the table has no entries for them.
 */
export async function describeMore(recycler: Recycler, clusters: number): Promise<boolean> {
  const { map, image } = recycler.volume;
  const { blocks, perBlock } = image.refcounts;
  const first = blocks.indexOf(0, Math.ceil(map.clusterCount / perBlock));
  // The blocks lie at the start of the first range, one beside the other.
  const count = Math.ceil(clusters / (perBlock - 1));
  if (first < 0 || count > perBlock || first + count > blocks.length) return false;
  if (blocks.subarray(first, first + count).some((block) => block !== 0)) return false;
  const start = first * perBlock;
  await recycler.extend(start + count - map.clusterCount);
  await createBlocks(recycler, [first], [start]);
  await createBlocks(recycler, range(first + 1, count - 1), range(start + 1, count - 1));
  return true;
}

/** New blocks at `cells`, durable before the table names them. Each describes itself, or a block before these does. */
export async function createBlocks(recycler: Recycler, indices: number[], cells: number[]): Promise<void> {
  if (indices.length === 0) return;
  const { volume } = recycler;
  const { refcounts } = volume.image;
  volume.map.transition(cells, State.junk, State.held);
  try {
    for (const [k, index] of indices.entries()) {
      refcounts.addBlock(index, cells[k]! * volume.clusterBytes);
      volume.clusters.setKind(cells[k]!, Kind.refcountBlock);
      volume.clusters.refs[cells[k]!] = 1;
    }
    for (const [k, index] of indices.entries()) {
      await volume.device.write(refcounts.encodeBlock(index), cells[k]! * volume.clusterBytes);
    }
    await recycler.writeCounts();
    await recycler.flush();
    for (const sector of tableSectors(indices)) {
      // A failure is final: the entries may be on disk all the same, and then the blocks must not go.
      await recycler.writeReferences(
        refcounts.encodeTableSector(sector),
        refcounts.tableOffset + sector * SECTOR,
      );
    }
  } catch (error) {
    withdrawBlocks(volume, indices, cells);
    throw error;
  }
  volume.map.transition(cells, State.held, State.live);
}

/** The ranges have no blocks after all: a live device goes on, and may try again. */
export function withdrawBlocks(volume: Volume, indices: number[], cells: number[]): void {
  for (const index of indices) volume.image.refcounts.removeBlock(index);
  for (const cell of cells) volume.clusters.forget(cell);
  volume.map.transition(cells, State.held, State.junk);
}

/** Sectors of the refcount table with the entries of these blocks. */
function tableSectors(indices: number[]): Set<number> {
  return new Set(indices.map((index) => Math.floor(index / ENTRIES_PER_SECTOR)));
}

async function writeTableSectors(volume: Volume, indices: number[]): Promise<void> {
  const { refcounts } = volume.image;
  for (const sector of tableSectors(indices)) {
    await volume.device.write(refcounts.encodeTableSector(sector), refcounts.tableOffset + sector * SECTOR);
  }
}

/** What can be let go in one atomic write: entries of one sector of the table, or the table's whole tail. */
interface Release {
  indices: number[];
  /** Clusters of the table that go with its tail; empty for a sector. */
  tableClusters: number[];
}

/**
 * Lets go of the blocks beyond the goal whose ranges are free, and of the table's tail. Every released block
 * lives in a range that stays described, or that goes in the same atomic write (hazard 3.8).
 * Answers the number of clusters that became junk.
 */
export async function releaseUnneeded(recycler: Recycler, goal: Goal): Promise<number> {
  const { volume } = recycler;
  const { refcounts, header } = volume.image;
  const releases = findReleases(volume, goal);
  if (releases.length === 0) return 0;
  // Counts first: nothing may be dropped with a count that is still to be written elsewhere.
  await recycler.writeCounts();
  const freed: number[] = [];
  for (const { indices, tableClusters } of releases) {
    for (const index of indices) {
      freed.push(refcounts.blocks[index]! / volume.clusterBytes);
      refcounts.removeBlock(index);
    }
    for (const cluster of tableClusters) freed.push(cluster);
    if (tableClusters.length > 0) {
      header.refcountTableClusters = goal.tableClusters;
      await writeTableClusters(volume, goal.tableClusters);
      refcounts.shrinkTable(goal.tableClusters);
    } else await writeTableSectors(volume, indices);
  }
  recycler.leave(freed);
  await recycler.flush();
  return freed.length;
}

/** One write of the header's first sector, of which only refcount_table_clusters changes (I4). */
async function writeTableClusters(volume: Volume, clusters: number): Promise<void> {
  const sector = new Uint8Array(SECTOR);
  await volume.device.read(sector, 0);
  viewOf(sector).setUint32(REFCOUNT_TABLE_CLUSTERS_AT, clusters);
  await volume.device.write(sector, 0);
}

function findReleases(volume: Volume, goal: Goal): Release[] {
  const { refcounts } = volume.image;
  const { perBlock, blocks, tableClusters } = refcounts;
  const releases: Release[] = [];
  const keptEntries = (goal.tableClusters * volume.clusterBytes) / 8;
  const beyond: number[] = [];
  for (let i = goal.blockCount; i < blocks.length; i++) if (blocks[i] !== 0) beyond.push(i);
  // No more than these can go along with what a range holds.
  const enough = beyond.length + tableClusters + 1;
  const liveIn = new Map(beyond.map((index) => [index, liveClusters(volume, index, enough)]));

  const inTail = beyond.filter((index) => index >= keptEntries);
  const tailClusters =
    tableClusters > goal.tableClusters
      ? range(
          refcounts.tableOffset / volume.clusterBytes + goal.tableClusters,
          tableClusters - goal.tableClusters,
        )
      : [];
  const tail = releasable(volume, inTail, liveIn, perBlock, tailClusters);
  // The tail goes as a whole, by the header, or its blocks go sector by sector until it can.
  const bySector =
    tailClusters.length > 0 && tail.length === inTail.length ? beyond.filter((i) => i < keptEntries) : beyond;
  if (tailClusters.length > 0 && tail.length === inTail.length) {
    releases.push({ indices: tail, tableClusters: tailClusters });
  }
  const sectors = new Map<number, number[]>();
  for (const index of bySector) {
    const sector = Math.floor(index / ENTRIES_PER_SECTOR);
    sectors.set(sector, [...(sectors.get(sector) ?? []), index]);
  }
  for (const group of sectors.values()) {
    const indices = releasable(volume, group, liveIn, perBlock, []);
    if (indices.length > 0) releases.push({ indices, tableClusters: [] });
  }
  return releases;
}

/** Live clusters in the range that block `index` describes, counted up to `enough`: a full range is left early. */
function liveClusters(volume: Volume, index: number, enough: number): number {
  const { perBlock } = volume.image.refcounts;
  const { refs, count } = volume.clusters;
  let live = 0;
  const end = Math.min((index + 1) * perBlock, count);
  for (let cluster = index * perBlock; cluster < end && live < enough; cluster++)
    if (refs[cluster]! > 0) live++;
  return live;
}

/** The largest part of `group` whose ranges hold nothing live but that part itself (and `along`). */
function releasable(
  volume: Volume,
  group: number[],
  liveIn: Map<number, number>,
  perBlock: number,
  along: number[],
): number[] {
  let part = group;
  for (;;) {
    const going = new Map<number, number>();
    const note = (cluster: number) => {
      const at = Math.floor(cluster / perBlock);
      going.set(at, (going.get(at) ?? 0) + 1);
    };
    for (const index of part) note(volume.image.refcounts.blocks[index]! / volume.clusterBytes);
    along.forEach(note);
    const next = part.filter((index) => liveIn.get(index) === (going.get(index) ?? 0));
    if (next.length === part.length) return part;
    part = next;
  }
}
