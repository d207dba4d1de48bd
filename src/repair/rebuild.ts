/**
 * Refcount structures made anew from the references, beside the present ones. Nothing names them before the header
 * does, which one write of its first sector decides: until then the image is what it was.
 */
import { type BlockDevice, SECTOR } from '../device/block-device.js';
import { REFCOUNT_TABLE_CLUSTERS_AT, REFCOUNT_TABLE_OFFSET_AT } from '../format/header.js';
import { encodeCounts } from '../format/refcounts.js';
import { viewOf, writeWord } from '../format/words.js';
import { type HostClusters, Kind } from '../image/host-clusters.js';
import type { Image } from '../image/image.js';
import { type Placement, placeStructures } from './placement.js';

/** Neighbouring blocks go out in one write of at most this much. */
const MAX_WRITE = 1 << 20;

/** Writes the new structures; `clusters` has them with their references afterwards. */
export async function writeStructures(image: Image, clusters: HostClusters): Promise<Placement> {
  const { clusterBytes } = image.header;
  const placement = placeStructures(clusters, image.refcounts.perBlock, clusterBytes);
  claim(clusters, placement);
  const table = new Uint8Array(placement.tableClusters * clusterBytes);
  const view = viewOf(table);
  for (const [index, cluster] of placement.blocks) writeWord(view, index * 8, cluster * clusterBytes);
  await image.device.write(table, placement.table * clusterBytes);
  await writeBlocks(image, clusters, placement);
  return placement;
}

function claim(clusters: HostClusters, { table, tableClusters, blocks, clusterCount }: Placement): void {
  clusters.resize(clusterCount);
  const take = (cluster: number, kind: Kind) => {
    clusters.setKind(cluster, kind);
    clusters.refs[cluster] = 1;
  };
  for (let cluster = table; cluster < table + tableClusters; cluster++) take(cluster, Kind.refcountTable);
  for (const cluster of blocks.values()) take(cluster, Kind.refcountBlock);
}

async function writeBlocks(
  { device, header, refcounts }: Image,
  clusters: HostClusters,
  { blocks }: Placement,
): Promise<void> {
  const { clusterBytes } = header;
  const { perBlock, order } = refcounts;
  const perWrite = Math.max(1, Math.floor(MAX_WRITE / clusterBytes));
  const sorted = [...blocks].sort(([, one], [, other]) => one - other);
  for (let i = 0; i < sorted.length;) {
    const first = sorted[i]![1];
    let end = i + 1;
    while (end < sorted.length && end - i < perWrite && sorted[end]![1] === first + (end - i)) end++;
    const bytes = new Uint8Array((end - i) * clusterBytes);
    for (let k = i; k < end; k++) {
      const from = sorted[k]![0] * perBlock;
      const counts = clusters.refs.subarray(from, Math.min(from + perBlock, clusters.count));
      encodeCounts(bytes.subarray((k - i) * clusterBytes), order, counts);
    }
    await device.write(bytes, first * clusterBytes);
    i = end;
  }
}

/** The image goes by the new structures from here on. */
export async function switchStructures(device: BlockDevice, placement: Placement, clusterBytes: number) {
  const sector = new Uint8Array(SECTOR);
  await device.read(sector, 0);
  const view = viewOf(sector);
  writeWord(view, REFCOUNT_TABLE_OFFSET_AT, placement.table * clusterBytes);
  view.setUint32(REFCOUNT_TABLE_CLUSTERS_AT, placement.tableClusters);
  await device.write(sector, 0);
}
