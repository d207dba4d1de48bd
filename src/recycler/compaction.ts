/**
 * The recycler run to a fixpoint without clients (design 4, recycler contract C69): plan, rounds, plan again,
 * until a plan moves nothing.
 */
import { isHostFull } from '../device/system-error.js';
import { Kind } from '../image/host-clusters.js';
import { amountToErase, eraseInterval } from './eraser.js';
import { type Forecast, forecast } from './forecast.js';
import { type Goal, goalFor, goalInPlace } from './goal.js';
import { HostRoom, type RoundBudget } from './host-room.js';
import { countLeaks, reclaimLeaks } from './leaks.js';
import { Moves, indexIn } from './moves.js';
import { type Plan, type PlanLimits, planMoves } from './planner.js';
import { Recycler } from './recycler.js';
import { NoRoom, type RepackHost, type RepackPlan, repack } from './repack.js';
import { cutRounds, reachOf } from './rounds.js';
import { collectSlots } from './slot-collector.js';
import { createMissingBlocks, describeMore, releaseUnneeded } from './structures.js';
import { assertInSync } from './sync-check.js';
import type { Run, Volume } from './volume.js';

export const DEFAULT_ROUND_BYTES = 256 << 20;
/** While the host is nearly full a plan has this many rounds: what they free makes the next ones larger. */
const ROUNDS_WHEN_FULL = 8;
/** A fixpoint is met after a few plans; more than this is a defect of the planner, not of the image. */
const MAX_PLANS = 10_000;

export interface CompactionOptions {
  keepErased: number;
  punch: boolean;
  roundBytes: number;
  runtimeAsserts: boolean;
  /** Asked at every barrier: true ends the run there. */
  stopped: () => boolean;
  /** Bytes moved so far, and of how many. */
  onMoved: (bytesDone: number, bytesTotal: number) => void;
  maxMoves?: number;
  /** Puts refcounts right that are too high, and nothing else: moves only what this takes, and keeps the length. */
  leaksOnly?: boolean;
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
  readonly recycler: Recycler;
  readonly #volume: Volume;
  readonly #options: CompactionOptions;
  readonly #room: HostRoom;
  readonly #report: CompactionReport = {
    interrupted: false,
    rounds: 0,
    bytesMoved: 0,
    leaksReclaimed: 0,
    leaksLeft: 0,
    excess: 0,
  };
  #bytesTotal = 0;
  #wroteSinceBarrier = false;
  #bytesCopied = 0;

  constructor(volume: Volume, options: CompactionOptions) {
    this.#volume = volume;
    this.#options = options;
    this.#room = new HostRoom(volume, options.roundBytes);
    this.recycler = new Recycler(volume, {
      onCopied: (bytes) => this.#copied(bytes),
    });
  }

  /** `known`: the forecast for the volume as it is, where the caller has made it. */
  async run(known?: Forecast): Promise<CompactionReport> {
    const { recycler } = this;
    if (this.#stop()) return this.#report;
    const leaks = reclaimLeaks(this.#volume);
    const { repack, bytesToCopy } = await this.#forecast(known);
    this.#bytesTotal = bytesToCopy;
    try {
      await this.#repack(repack);
      await this.#toFixpoint();
    } catch (error) {
      await this.#settle(error);
      throw error;
    }
    if (!this.#report.interrupted) {
      await this.#fillPool();
      await this.#eraseUndescribed();
    }
    const cutsOff = this.#report.interrupted && this.#options.leaksOnly !== true;
    await this.#shorten(cutsOff ? 0 : this.#goal().finalClusters);
    if (this.#wroteSinceBarrier) await recycler.flush();
    const leaksLeft = leaks.pending === 0 ? 0 : countLeaks(this.#volume);
    const leaksReclaimed = leaks.found - leaksLeft;
    return { ...this.#report, leaksReclaimed, leaksLeft, bytesMoved: this.#bytesCopied };
  }

  async #forecast(known?: Forecast): Promise<Pick<Forecast, 'repack' | 'bytesToCopy'>> {
    if (this.#options.leaksOnly === true) return { repack: null, bytesToCopy: 0 };
    return known ?? (await forecast(this.#volume, this.#options.keepErased));
  }

  async #repack(plan: RepackPlan | null): Promise<void> {
    if (plan === null) return;
    await this.#fitStructures();
    if (this.#stop()) return;
    const host: RepackHost = {
      recycler: this.recycler,
      roundBytes: async () => (await this.#room.budget(this.#goal())).bytes,
      moveClusters: (sources, destinations, run) => this.#moveClusters(sources, destinations, run),
      describeMore: (clusters) => this.#describeMore(clusters),
      shorten: (atLeast) => this.#shorten(Math.max(atLeast, this.#goal().finalClusters)),
      roundDone: () => {
        this.#report.rounds++;
        this.#assert();
      },
      stopped: () => this.#stop(),
      onCopied: (bytes) => this.#copied(bytes),
    };
    try {
      await repack(plan, host);
    } catch (error) {
      // The rest of the job is still worth doing; what is too long is said at the end.
      if (!(error instanceof NoRoom)) throw error;
    }
    if (this.#options.runtimeAsserts) await assertInSync(this.#volume);
  }

  async #moveClusters(sources: number[], destinations: number[], run?: Run): Promise<void> {
    const goal = this.#goal();
    const plan: Plan = {
      sources: Uint32Array.from(sources),
      destinations: Uint32Array.from(destinations),
      extendBy: Math.max(0, destinations.at(-1)! + 1 - this.#volume.map.clusterCount),
      runStarts: new Map(run === undefined ? [] : [[run.first, run.count]]),
      lacks: 0,
    };
    await this.#runPlan(plan, goal, await this.#room.budget(goal));
  }

  /** Refcount blocks for `clusters` neighbours after the file's end; false where the table has no entries for them. */
  async #describeMore(clusters: number): Promise<boolean> {
    const described = await describeMore(this.recycler, clusters);
    if (described) this.#wroteSinceBarrier = true;
    return described;
  }

  #copied(bytes: number): void {
    this.#bytesCopied += bytes;
    this.#bytesTotal = Math.max(this.#bytesTotal, this.#bytesCopied);
    this.#options.onMoved(this.#bytesCopied, this.#bytesTotal);
  }

  #goal(): Goal {
    if (this.#options.leaksOnly === true) return goalInPlace(this.#volume);
    return goalFor(this.#volume, this.#options.keepErased);
  }

  async #toFixpoint(): Promise<void> {
    const { map } = this.#volume;
    let described = false;
    // Where more room did not help once, it would go on for ever.
    let canDescribe = true;
    for (let plans = 0; ; plans++) {
      if (plans > MAX_PLANS + 4 * map.clusterCount) throw new Error('the compaction does not come to an end');
      if (!described) await this.#fitStructures();
      if (this.#stop()) return;
      const goal = this.#goal();
      const budget = await this.#room.budget(goal);
      const plan = planMoves(this.#volume, goal, this.#planLimits(budget, described));
      if (described && plan.lacks > 0) canDescribe = false;
      described = plan.lacks > 0 && canDescribe && (await this.#describeMore(plan.lacks));
      if (described) {
        // Planned again with the room that this made.
      } else if (plan.sources.length > 0) {
        await this.#runPlan(plan, goal, budget);
      } else {
        this.#report.excess = Math.max(0, map.lastCluster + 1 - goal.finalClusters);
        return;
      }
      if (this.#options.runtimeAsserts) await assertInSync(this.#volume);
      if (this.#stop()) return;
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

  #stop(): boolean {
    if (this.#options.stopped()) this.#report.interrupted = true;
    return this.#report.interrupted;
  }

  /** Refcount blocks where live clusters will be, none where they will not. What one release frees allows more. */
  async #fitStructures(): Promise<void> {
    if (this.#options.leaksOnly === true) return;
    if ((await createMissingBlocks(this.recycler, this.#goal())) > 0) this.#wroteSinceBarrier = true;
    while (!this.#options.stopped()) {
      if ((await releaseUnneeded(this.recycler, this.#goal())) === 0) break;
      this.#wroteSinceBarrier = true;
    }
    this.#assert();
  }

  async #runPlan(plan: Plan, goal: Goal, budget: RoundBudget): Promise<void> {
    const { clusters, image, clusterBytes } = this.#volume;
    if (plan.extendBy > 0) await this.recycler.extend(plan.extendBy);
    const rounds = cutRounds(plan, Math.max(1, Math.floor(budget.bytes / clusterBytes)));
    const roundOf = new Uint32Array(plan.sources.length);
    for (const [r, { from, to }] of rounds.entries()) roundOf.fill(r, from, to);
    const slots = await collectSlots(image, clusters, plan.sources, roundOf, rounds.length);
    // From the file's end down: `done` is the first move of the plan whose round is complete.
    let done = plan.sources.length;
    const placeOf = (cluster: number) => {
      const index = indexIn(plan.sources, cluster);
      return index >= done ? plan.destinations[index]! : cluster;
    };
    const stepsBeyond = reachOf(plan.destinations, goal.finalClusters) > goal.finalClusters;
    for (const [r, { from, to }] of rounds.entries()) {
      const moves = new Moves(
        plan.sources.subarray(from, to),
        plan.destinations.subarray(from, to),
        { offsets: slots[r]!.offsets, moves: slots[r]!.moves.map((move) => move - from) },
        (cluster) => clusters.needsFlag(cluster),
      );
      const atLeast = stepsBeyond
        ? reachOf(plan.destinations.subarray(0, from), goal.finalClusters)
        : goal.finalClusters;
      await this.#round(moves, placeOf, atLeast);
      done = from;
      if (!stepsBeyond) await this.#releaseAtTheEnd(plan, goal);
      const staying = moves.sources.filter((source) => source < goal.finalClusters);
      if (budget.nearlyFull && staying.length > 0) await this.#room.giveBack(staying);
      // What a round freed makes the next ones larger.
      if (this.#stop() || (budget.nearlyFull && (staying.length > 0 || r + 1 === ROUNDS_WHEN_FULL))) return;
    }
  }

  /** One round: two barriers. What it frees is given back in the window of the next round. */
  async #round(moves: Moves, placeOf: (cluster: number) => number, atLeast: number): Promise<void> {
    const { recycler } = this;
    recycler.begin(moves, placeOf);
    try {
      await recycler.copy(); //           Copying -> Copied
    } catch (error) {
      if (isHostFull(error)) await this.#giveBackCopies(moves);
      throw error;
    }
    await recycler.flush(); //            barrier A: Copied -> Flushed
    await recycler.updateReferences(); // Flushed -> Referenced
    await recycler.flush(); //            barrier B: Referenced -> complete, sources are junk
    await this.#shorten(atLeast);
    this.#report.rounds++;
    this.#assert();
  }

  /** Copies that came to nothing would keep the host full: the next run could do no better. */
  async #giveBackCopies({ destinations }: Moves): Promise<void> {
    try {
      await this.#room.giveBack(destinations);
    } catch {
      // The first error is the one to report.
    }
  }

  /**
   * A refcount block that waits for its release can be all that keeps the file long: without it gone, rounds
   * into holes of the host file would allocate more than one round's bytes (I10).
   */
  async #releaseAtTheEnd(plan: Plan, goal: Goal): Promise<void> {
    const { map, clusters, image, clusterBytes } = this.#volume;
    const { blocks } = image.refcounts;
    const last = map.lastCluster;
    if (last < goal.finalClusters || clusters.kind(last) !== Kind.refcountBlock) return;
    if (image.refcounts.indexOfBlock(last * clusterBytes) < goal.blockCount) return;
    // One that a later round of this plan moves must stay until then.
    const moving = (block: number) => block !== 0 && indexIn(plan.sources, block / clusterBytes) >= 0;
    if (moving(image.refcounts.tableOffset) || blocks.subarray(goal.blockCount).some(moving)) return;
    if ((await releaseUnneeded(this.recycler, goal)) > 0) await this.#shorten(goal.finalClusters);
  }

  /** Writes lowered refcounts, then cuts the file: both in the window before the next barrier. */
  async #shorten(atLeast: number): Promise<void> {
    const { refcounts } = this.#volume.image;
    if (refcounts.hasDirty) this.#wroteSinceBarrier = true;
    await this.recycler.writeCounts();
    if (await this.recycler.truncate(atLeast)) this.#wroteSinceBarrier = true;
  }

  #assert(): void {
    if (this.#options.runtimeAsserts) this.recycler.assertConsistent();
  }

  /** Erases what stays as a pool (design 4.5): only that, since all other junk is cut off. */
  async #fillPool(): Promise<void> {
    const { keepErased, punch } = this.#options;
    const amount = amountToErase(this.#volume.map, keepErased);
    if (amount === 0) return;
    await this.#shorten(this.#goal().finalClusters);
    const { clusters, holes } = await this.recycler.erase(amount, punch);
    if (clusters > holes) this.#wroteSinceBarrier = true;
  }

  /** The part of the pool that no refcount block describes lies beyond what the map knows. */
  async #eraseUndescribed(): Promise<void> {
    const { map, device, clusterBytes } = this.#volume;
    const count = this.#goal().finalClusters - map.clusterCount;
    if (count <= 0 || this.#options.keepErased === 0) return;
    const at = map.clusterCount * clusterBytes;
    const holes = await eraseInterval(device, at, count, clusterBytes, this.#options.punch);
    if (holes < count) this.#wroteSinceBarrier = true;
  }

  /**
   * After a failed copy the image is as valid as after a crash. Where the host still works (it is only full),
   * the destinations' counts are lowered again and what earlier rounds freed is cut off.
   */
  async #settle(error: unknown): Promise<void> {
    if (this.recycler.failure !== null) return;
    if (!isHostFull(error)) return;
    try {
      await this.#shorten(0);
      await this.recycler.flush();
    } catch {
      // The first error is the one to report; the image is valid either way.
    }
  }
}
