/** What a repair would do to an image, decided before the first write; or why it cannot be repaired (I6). */
import { QcowError } from '../errors.js';
import { type HostClusters, Kind } from '../image/host-clusters.js';
import type { Image } from '../image/image.js';
import { walkReferencesAlone } from '../image/references-alone.js';
import { type Findings, describeCorruption } from '../image/walk.js';
import { type WrongFlags, findWrongFlags } from './flags.js';

export interface Diagnosis {
  /**
   * What the references say. Clusters of the present refcount structures have their kind too: where these are to
   * be made anew they count for nothing any more, but must not be overwritten before that is done.
   */
  clusters: HostClusters;
  /** The refcounts are wrong somewhere, or the structures that hold them are damaged. */
  rebuild: boolean;
  flags: WrongFlags;
}

/** `image` is opened for repair and its refcounts are loaded. Throws for damage that no repair can mend without a loss. */
export async function diagnose(image: Image): Promise<Diagnosis> {
  const { clusters, damage } = await walkReferencesAlone(image);
  requireMendable(damage);
  const rebuild = !areCountsRight(image, clusters);
  if (rebuild) disown(clusters);
  return { clusters, rebuild, flags: await findWrongFlags(image, clusters) };
}

function requireMendable(damage: Findings): void {
  if (damage.corruptions === 0) return;
  throw new QcowError(
    'CORRUPT',
    `the image is damaged in a way that no repair can mend without losing data`,
    {
      where: describeCorruption(damage),
      hint: 'it was left untouched; restore it from a backup, or try `qemu-img check -r all` on a copy',
    },
  );
}

/** Whether the refcounts on disk are what the references say, the structures that hold them included. */
function areCountsRight({ refcounts, refcountFaults }: Image, clusters: HostClusters): boolean {
  const areOwn = claimStructures(refcounts, clusters);
  if (!areOwn || refcountFaults.length > 0 || refcounts.hasStale) return false;
  const { counts } = refcounts;
  for (let cluster = 0; cluster < clusters.count; cluster++) {
    if (counts[cluster] !== clusters.refs[cluster]) return false;
  }
  return true;
}

/** Enters the refcount structures as what they are; false where they are not wholly in the file, or overlap something. */
function claimStructures(
  { tableOffset, tableClusters, blocks, present, clusterBytes }: Image['refcounts'],
  clusters: HostClusters,
): boolean {
  let areOwn = true;
  const claim = (cluster: number, kind: Kind) => {
    if (cluster < clusters.count && clusters.kind(cluster) === Kind.none) {
      clusters.setKind(cluster, kind);
      clusters.refs[cluster] = 1;
    } else areOwn = false;
  };
  const table = tableOffset / clusterBytes;
  for (let cluster = table; cluster < table + tableClusters; cluster++) claim(cluster, Kind.refcountTable);
  for (const index of present) claim(blocks[index]! / clusterBytes, Kind.refcountBlock);
  return areOwn;
}

function disown(clusters: HostClusters): void {
  for (const kind of [Kind.refcountTable, Kind.refcountBlock]) {
    for (const cluster of clusters.ofKind(kind)) clusters.refs[cluster] = 0;
  }
}
