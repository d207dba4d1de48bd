/**
 * Carries out where compressed extents go (design 6): the clusters that they get are cleared, then they move, round
 * by round. What is in the way of others steps aside, to the end of the file, and keeps the place that it shall have.
 */
import { greatestCount } from '../format/refcounts.js';
import { type Extents, collectExtents } from '../image/extents.js';
import { moveExtents } from './extent-round.js';
import { ExtentSteps, type Step } from './extent-steps.js';
import { packExtents } from './packing.js';
import type { RepackPlan } from './repack-plan.js';
import type { RoundRunner } from './round-runner.js';
import { NoRoom, clearClusters } from './stretch-clearing.js';

export { NoRoom };

export class Repacking {
  readonly #runner: RoundRunner;
  readonly #plan: RepackPlan;
  /** The cluster after the last one that holds extents afterwards. */
  readonly #endCluster: number;
  #extents: Extents;

  constructor(runner: RoundRunner, plan: RepackPlan) {
    this.#runner = runner;
    this.#plan = plan;
    this.#extents = plan.extents;
    this.#endCluster = plan.holds.lastIndexOf(1) + 1;
  }

  /** Returns early at a barrier when it is stopped. Throws NoRoom; the image is valid then. */
  async run(): Promise<void> {
    const runner = this.#runner;
    const { volume, recycler } = runner;
    if (await clearClusters(runner, this.#plan.holds)) await this.#findSlotsAgain();
    if (runner.stop()) return;
    if (!volume.image.refcounts.covers(this.#endCluster - 1)) throw new NoRoom();
    const lacking = this.#endCluster - volume.map.clusterCount;
    if (lacking > 0) await recycler.extend(lacking);

    const extents = this.#extents;
    const { targets, grainBytes } = this.#plan;
    const steps = new ExtentSteps(extents, targets, volume.clusterBytes, grainBytes);
    const now = Float64Array.from(extents.offsets);
    const places = { aside: new Float64Array(0) };
    /** Bytes of a round at most: less where the refcount table has no entries for so many places aside. */
    let most = Infinity;
    for (;;) {
      const { bytes } = await runner.budget();
      const step = steps.next(Math.min(bytes, most));
      if (step === null) return;
      if (step.isAside) {
        if (places.aside.length === 0) places.aside = new Float64Array(extents.count);
        if (!(await this.#findPlacesAside(step, places.aside))) {
          most = lessThan(Math.min(bytes, most), volume.clusterBytes);
          continue;
        }
      }
      const to = step.isAside ? places.aside : targets;
      await moveExtents(recycler, { extents, moving: step.moving, from: now, to }, (copied) =>
        runner.copied(copied),
      );
      for (const extent of step.moving) now[extent] = to[extent]!;
      steps.taken(step);
      await runner.shorten(Math.max(this.#endCluster, runner.goal().finalClusters));
      runner.roundDone();
      if (runner.stop()) return;
    }
  }

  /** L2 tables have moved, and the descriptors with them; the extents are where they were. */
  async #findSlotsAgain(): Promise<void> {
    const { image, clusters } = this.#runner.volume;
    const found = await collectExtents(image, clusters);
    if (found?.count !== this.#extents.count) throw new Error('compressed extents changed under us');
    this.#extents = found;
  }

  /**
   * Places at the end of the file, where nothing lies in between; false where no refcount block describes so many
   * and none can.
   */
  async #findPlacesAside({ moving }: Step, places: Float64Array<ArrayBuffer>): Promise<boolean> {
    const runner = this.#runner;
    const { map, image, clusterBytes } = runner.volume;
    const { refcounts } = image;
    for (;;) {
      const first = Math.max(this.#endCluster, map.lastCluster + 1);
      const describedEnd = ((refcounts.present.at(-1) ?? -1) + 1) * refcounts.perBlock;
      const limits = {
        clusterBytes,
        greatestCount: greatestCount(refcounts.order),
        usable: (cluster: number) => refcounts.covers(cluster),
        endCluster: describedEnd,
      };
      const packing = packExtents(this.#extents, moving, first, limits, places);
      if (packing !== null) {
        const lacking = packing.endCluster - map.clusterCount;
        if (lacking > 0) await runner.recycler.extend(lacking);
        return true;
      }
      const bytes = moving.reduce((sum, extent) => sum + this.#extents.lengths[extent]!, 0);
      if (!(await runner.describeMore(Math.ceil(bytes / clusterBytes) + 2))) return false;
    }
  }
}

/** Half of `bytes`; throws where that is less than an extent may need. */
function lessThan(bytes: number, clusterBytes: number): number {
  if (bytes <= 4 * clusterBytes) throw new NoRoom();
  return Math.max(4 * clusterBytes, Math.floor(bytes / 2));
}
