/**
 * The recycler run to a fixpoint without clients (design 4, recycler contract C69): plan, rounds, plan again,
 * until a plan moves nothing.
 */
import { amountToErase, eraseInterval } from './eraser.js';
import { type Forecast, forecast } from './forecast.js';
import type { RoundBudget } from './host-room.js';
import { countLeaks, reclaimLeaks } from './leaks.js';
import { type PlanLimits, planMoves } from './planner.js';
import type { Recycler } from './recycler.js';
import { NoRoom, Repacking } from './repack.js';
import type { RepackPlan } from './repack-plan.js';
import { type RoundOptions, RoundRunner } from './round-runner.js';
import type { Volume } from './volume.js';

/** A fixpoint is met after a few plans; more than this is a defect of the planner, not of the image. */
const MAX_PLANS = 10_000;

export interface CompactionOptions extends RoundOptions {
  punch: boolean;
  maxMoves?: number;
}

export interface CompactionReport {
  interrupted: boolean;
  rounds: number;
  bytesMoved: number;
  leaksReclaimed: number;
  /** Clusters whose refcount stays too high: it can only be put right by a move, for which there was no room. */
  leaksLeft: number;
  /** Clusters beyond the goal that could not be moved; 0 unless the layout defeats the planner. */
  excess: number;
}

/** One run over one volume. */
export class Compaction {
  readonly #volume: Volume;
  readonly #options: CompactionOptions;
  readonly #runner: RoundRunner;
  #excess = 0;

  constructor(volume: Volume, options: CompactionOptions) {
    this.#volume = volume;
    this.#options = options;
    this.#runner = new RoundRunner(volume, options);
  }

  get recycler(): Recycler {
    return this.#runner.recycler;
  }

  /** `known`: the forecast for the volume as it is, where the caller has made it. */
  async run(known?: Forecast): Promise<CompactionReport> {
    const runner = this.#runner;
    if (runner.stop()) return this.#report(0, 0);
    const leaks = reclaimLeaks(this.#volume);
    const { repack, bytesToCopy } = await this.#forecast(known);
    runner.bytesTotal = bytesToCopy;
    try {
      await this.#repack(repack);
      await this.#toFixpoint();
    } catch (error) {
      await runner.settle(error);
      throw error;
    }
    if (!runner.interrupted) {
      await this.#fillPool();
      await this.#eraseUndescribed();
    }
    const cutsOff = runner.interrupted && this.#options.leaksOnly !== true;
    await runner.shorten(cutsOff ? 0 : runner.goal().finalClusters);
    if (runner.wroteSinceBarrier) await runner.recycler.flush();
    const leaksLeft = leaks.pending === 0 ? 0 : countLeaks(this.#volume);
    return this.#report(leaks.found - leaksLeft, leaksLeft);
  }

  #report(leaksReclaimed: number, leaksLeft: number): CompactionReport {
    const { interrupted, rounds, bytesCopied } = this.#runner;
    return { interrupted, rounds, bytesMoved: bytesCopied, leaksReclaimed, leaksLeft, excess: this.#excess };
  }

  async #forecast(known?: Forecast): Promise<Pick<Forecast, 'repack' | 'bytesToCopy'>> {
    if (this.#options.leaksOnly === true) return { repack: null, bytesToCopy: 0 };
    const { keepErased, roundBytes } = this.#options;
    return known ?? (await forecast(this.#volume, keepErased, roundBytes));
  }

  async #repack(plan: RepackPlan | null): Promise<void> {
    const runner = this.#runner;
    if (plan === null) return;
    await runner.fitStructures();
    if (runner.stop()) return;
    try {
      await new Repacking(runner, plan).run();
    } catch (error) {
      // The rest of the job is still worth doing; what is too long is said at the end.
      if (!(error instanceof NoRoom)) throw error;
    }
    await runner.assertInSync();
  }

  async #toFixpoint(): Promise<void> {
    const runner = this.#runner;
    const { map } = this.#volume;
    let described = false;
    // Where more room did not help once, it would go on for ever.
    let canDescribe = true;
    for (let plans = 0; ; plans++) {
      if (plans > MAX_PLANS + 4 * map.clusterCount) throw new Error('the compaction does not come to an end');
      if (!described) await runner.fitStructures();
      if (runner.stop()) return;
      const goal = runner.goal();
      const budget = await runner.budget(goal);
      const plan = planMoves(this.#volume, goal, this.#planLimits(budget, described));
      if (described && plan.lacks > 0) canDescribe = false;
      described = plan.lacks > 0 && canDescribe && (await runner.describeMore(plan.lacks));
      if (described) {
        // Planned again with the room that this made.
      } else if (plan.sources.length > 0) {
        await runner.runPlan(plan, goal, budget);
      } else {
        this.#excess = Math.max(0, map.lastCluster + 1 - goal.finalClusters);
        return;
      }
      await runner.assertInSync();
      if (runner.stop()) return;
    }
  }

  /** `described`: a refcount block for the range at the file's end is part of what the file grows by. */
  #planLimits({ bytes, forcedBytes }: RoundBudget, described: boolean): PlanLimits {
    const { clusterBytes } = this.#volume;
    return {
      ...(this.#options.maxMoves === undefined ? {} : { maxMoves: this.#options.maxMoves }),
      room: Math.max(1, Math.floor(bytes / clusterBytes) - (described ? 1 : 0)),
      mostForced: Math.floor(forcedBytes / clusterBytes),
    };
  }

  /** Erases what stays as a pool (design 4.5): only that, since all other junk is cut off. */
  async #fillPool(): Promise<void> {
    const { keepErased, punch } = this.#options;
    const runner = this.#runner;
    const amount = amountToErase(this.#volume.map, keepErased);
    if (amount === 0) return;
    await runner.shorten(runner.goal().finalClusters);
    const { clusters, holes } = await runner.recycler.erase(amount, punch);
    if (clusters > holes) runner.wroteSinceBarrier = true;
  }

  /** The part of the pool that no refcount block describes lies beyond what the map knows. */
  async #eraseUndescribed(): Promise<void> {
    const { map, device, clusterBytes } = this.#volume;
    const count = this.#runner.goal().finalClusters - map.clusterCount;
    if (count <= 0 || this.#options.keepErased === 0) return;
    const at = map.clusterCount * clusterBytes;
    const holes = await eraseInterval(device, at, count, clusterBytes, this.#options.punch);
    if (holes < count) this.#runner.wroteSinceBarrier = true;
  }
}
