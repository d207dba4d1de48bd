/** The engine's checks of itself, for `runtimeAsserts` (recycler contract C1, C40, C70). */
import { type HostClusters, KIND_NAMES } from '../image/host-clusters.js';
import { type Image, openImage } from '../image/image.js';
import { walk } from '../image/walk.js';
import { State } from './cluster-map.js';
import type { Volume } from './volume.js';

/** Opens and walks the image anew and throws unless it is sound and says the same as `volume`. */
export async function assertInSync(volume: Volume): Promise<void> {
  const image = await openImage(volume.device);
  const { clusters, findings } = await walk(image);
  if (findings.corruptions > 0) throw new Error(`out of sync: ${findings.words.join('; ')}`);
  comparePlaces(volume.image, image);
  const known = volume.clusters;
  const { refcounts } = volume.image;
  for (let cluster = 0; cluster < Math.max(known.count, clusters.count); cluster++) {
    if (!sameUse(known, clusters, cluster)) {
      same(`cluster ${cluster}`, describe(known, cluster), describe(clusters, cluster));
    }
    // Counts that are still to be written differ by design.
    if (!refcounts.hasDirty) {
      same(`refcount of cluster ${cluster}`, refcounts.get(cluster), image.refcounts.get(cluster));
    }
  }
}

function sameUse(known: HostClusters, found: HostClusters, cluster: number): boolean {
  return (
    known.refs[cluster] === found.refs[cluster] &&
    known.kind(cluster) === found.kind(cluster) &&
    known.isActive(cluster) === found.isActive(cluster) &&
    known.needsFlag(cluster) === found.needsFlag(cluster)
  );
}

function describe(clusters: HostClusters, cluster: number): string {
  if (cluster >= clusters.count || clusters.refs[cluster] === 0) return 'unused';
  const use = `${clusters.refs[cluster]} x ${KIND_NAMES[clusters.kind(cluster)]}`;
  const active = clusters.isActive(cluster) ? ', active' : '';
  return use + active + (clusters.needsFlag(cluster) ? ', without the COPIED flag' : '');
}

function comparePlaces(known: Image, found: Image): void {
  const { header } = found;
  if (header.l1Entries > 0) same('L1 table', known.header.l1Offset, header.l1Offset);
  if (header.snapshotCount > 0) same('snapshot table', known.header.snapshotsOffset, header.snapshotsOffset);
  same('refcount table', known.refcounts.tableOffset, found.refcounts.tableOffset);
  same('refcount table clusters', known.refcounts.tableClusters, found.refcounts.tableClusters);
  for (let i = 0; i < Math.max(known.refcounts.blocks.length, found.refcounts.blocks.length); i++) {
    same(`refcount block ${i}`, known.refcounts.blocks[i] ?? 0, found.refcounts.blocks[i] ?? 0);
  }
  for (const [i, { l1Offset, l1Entries }] of found.snapshots.entries()) {
    if (l1Entries > 0) same(`L1 table of snapshot ${i}`, known.snapshots[i]?.l1Offset, l1Offset);
  }
  same('bitmap directory', known.bitmaps?.directory.offset, found.bitmaps?.directory.offset);
  for (const [i, { tableOffset }] of (found.bitmaps?.entries ?? []).entries()) {
    same(`table of bitmap ${i}`, known.bitmaps?.entries[i]?.tableOffset, tableOffset);
  }
}

function same(what: string, known: unknown, found: unknown): void {
  if (known !== found)
    throw new Error(`out of sync: ${what} is ${String(found)} on disk, not ${String(known)}`);
}

/** Throws unless states, references and the destinations of unfinished moves agree, in memory. */
export function assertStates({ map, clusters }: Volume, copies: ReadonlySet<number>): void {
  map.assertConsistent();
  for (let cluster = 0; cluster < map.clusterCount; cluster++) {
    const state = map.state(cluster);
    if ((state === State.copy) !== copies.has(cluster)) {
      throw new Error(`cluster ${cluster}: copy and moves disagree`);
    }
    if (state === State.copy || state === State.held) continue;
    if (clusters.refs[cluster]! > 0 !== (state === State.live)) {
      throw new Error(`cluster ${cluster}: references and state disagree`);
    }
  }
}
