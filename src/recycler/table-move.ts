/** The refcount table at another place, beside clients: durable there before the header names it (I4). */
import { SECTOR } from '../device/block-device.js';
import { REFCOUNT_TABLE_CLUSTERS_AT, REFCOUNT_TABLE_OFFSET_AT } from '../format/header.js';
import { viewOf, writeWord } from '../format/words.js';
import { Kind } from '../image/host-clusters.js';
import { Pace } from '../pace.js';
import { State } from './cluster-map.js';
import { range } from './eraser.js';
import type { Recycler } from './recycler.js';
import type { Volume } from './volume.js';

/**
 * Puts the table into the first hole that holds it, before `limit`, without the room beyond its last entry. False where there
 * is none. The caller lets nobody use what is junk. A failure before the header is written leaves all as it is.
 */
export async function moveTable(recycler: Recycler, limit: number): Promise<boolean> {
  return recycler.metadata.run(async () => {
    const { volume } = recycler;
    const { map, clusters, clusterBytes, device } = volume;
    const { refcounts } = volume.image;
    const count = Math.ceil(((refcounts.present.at(-1)! + 1) * 8) / clusterBytes);
    const first = await findHole(volume, count, limit);
    if (first < 0) return false;
    const places = range(first, count);
    map.transition(places, State.junk, State.held);
    let header: Uint8Array;
    try {
      for (const cluster of places) {
        refcounts.set(cluster, 1);
        clusters.setKind(cluster, Kind.refcountTable);
        clusters.refs[cluster] = 1;
      }
      await device.write(refcounts.encodeTable(count), first * clusterBytes);
      await recycler.writeCounts();
      await recycler.flush();
      header = await readHeaderSector(volume);
    } catch (error) {
      for (const cluster of places) clusters.forget(cluster);
      recycler.giveBack(places);
      throw error;
    }
    map.transition(places, State.held, State.live);
    await nameTable(recycler, header, first * clusterBytes, count);
    return true;
  });
}

/** With the fields that name the refcount table. */
export async function readHeaderSector({ device }: Volume): Promise<Uint8Array> {
  const sector = new Uint8Array(SECTOR);
  await device.read(sector, 0);
  return sector;
}

/**
 * The header, of which `sector` is the first part, names the table at `tableOffset` from now on; what lay at the old place
 * leaves. A failure is final.
 */
export async function nameTable(
  recycler: Recycler,
  sector: Uint8Array,
  tableOffset: number,
  tableClusters: number,
): Promise<void> {
  const { header, refcounts } = recycler.volume.image;
  const { clusterBytes } = recycler.volume;
  const before = range(refcounts.tableOffset / clusterBytes, refcounts.tableClusters);
  writeWord(viewOf(sector), REFCOUNT_TABLE_OFFSET_AT, tableOffset);
  viewOf(sector).setUint32(REFCOUNT_TABLE_CLUSTERS_AT, tableClusters);
  await recycler.writeReferences(sector, 0);
  if (tableClusters < refcounts.tableClusters) refcounts.shrinkTable(tableClusters);
  refcounts.tableOffset = tableOffset;
  refcounts.tableClusters = tableClusters;
  header.refcountTableOffset = tableOffset;
  header.refcountTableClusters = tableClusters;
  recycler.leave(before);
}

/** The first of `count` neighbours that are junk; -1 where there are none that end before `limit`. */
async function findHole({ map, image }: Volume, count: number, limit: number): Promise<number> {
  const pace = new Pace();
  let length = 0;
  for (let cluster = map.firstJunk; cluster < limit; cluster++) {
    if (pace.isOverAfterStep) await pace.giveWay();
    const isHole = map.is(cluster, State.junk) && image.refcounts.covers(cluster);
    length = isHole ? length + 1 : 0;
    if (length === count) return cluster - count + 1;
  }
  return -1;
}
