/**
 * What refers to what by the tables alone, whatever the refcounts and the flags say: from this a repair works.
 * The refcount structures count for nothing here, since they can be made anew without a loss.
 */
import type { HostClusters } from './host-clusters.js';
import { Kind } from './host-clusters.js';
import type { Image } from './image.js';
import { Flag, type ReferenceVisitor, visitReferences } from './references.js';
import { Census, type Findings } from './walk.js';

/** Whatever this finds damaged is damage that no repair can mend without losing data. */
class ReferencesAlone extends Census {
  readonly #clusterBytes: number;

  constructor(image: Image) {
    super(image);
    this.#clusterBytes = image.header.clusterBytes;
  }

  override problem(what: string, slot: number, flagAlone = false): void {
    if (!flagAlone) super.problem(what, slot);
  }

  override reference(
    slot: number,
    target: number,
    clusterCount: number,
    kind: Kind,
    paths: number,
    flags: number,
  ): void {
    if (kind === Kind.refcountTable || kind === Kind.refcountBlock) return;
    // Without `active` its flag is not held against a refcount.
    super.reference(slot, target, clusterCount, kind, paths, 0);
    if (kind === Kind.l2Table && (flags & Flag.active) !== 0) {
      this.clusters.markActive(target / this.#clusterBytes);
    }
  }

  override extent(slot: number, offset: number, lengthBytes: number, paths: number): void {
    super.extent(slot, offset, lengthBytes, paths, 0);
  }

  /** The ordinary loop goes by refcounts. */
  override takeOrdinary(_halves: Int32Array, from: number): number {
    return from;
  }
}

/** `image` is opened for repair. */
export async function walkReferencesAlone(
  image: Image,
): Promise<{ clusters: HostClusters; damage: Findings }> {
  const census: Census & ReferenceVisitor = new ReferencesAlone(image);
  await visitReferences(image, census.clusters, census);
  return { clusters: census.clusters, damage: census.findings };
}
