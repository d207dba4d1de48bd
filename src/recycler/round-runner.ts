/**
 * The rounds of one run: clusters that move, counts that are written and a file that gets shorter, under one budget.
 * What the order of the whole run (compaction.ts) and the repacking of compressed extents (repack.ts) both use.
 */
import { isHostFull } from '../system-error.js';
import { Kind } from '../image/host-clusters.js';
import { type Goal, goalFor, goalInPlace } from './goal.js';
import { HostRoom, type RoundBudget } from './host-room.js';
import { Moves, indexIn } from './moves.js';
import type { Plan } from './planner.js';
import { Recycler } from './recycler.js';
import { cutRounds, reachOf } from './rounds.js';
import { collectSlots } from './slot-collector.js';
import { createMissingBlocks, describeMore, releaseUnneeded } from './structures.js';
import { assertInSync } from './sync-check.js';
import type { Run, Volume } from './volume.js';

/** While the host is nearly full a plan has this many rounds: what they free makes the next ones larger. */
const ROUNDS_WHEN_FULL = 8;

export interface RoundOptions {
  keepErased: number;
  roundBytes: number;
  runtimeAsserts: boolean;
  /** Puts refcounts right that are too high, and nothing else: moves only what this takes, and cuts nothing off. */
  leaksOnly?: boolean;
  /** Asked at every barrier: true ends the run there. */
  stopped: () => boolean;
  /** Bytes moved so far, and of how many. */
  onMoved: (bytesDone: number, bytesTotal: number) => void;
}

export class RoundRunner {
  readonly recycler: Recycler;
  readonly volume: Volume;
  readonly #options: RoundOptions;
  readonly #room: HostRoom;
  /** Rounds that are complete. */
  rounds = 0;
  bytesCopied = 0;
  /** What is expected to be copied; never less than what was. */
  bytesTotal = 0;
  interrupted = false;
  /** Something was written that no barrier covers yet. */
  wroteSinceBarrier = false;

  constructor(volume: Volume, options: RoundOptions) {
    this.volume = volume;
    this.#options = options;
    this.#room = new HostRoom(volume, options.roundBytes);
    this.recycler = new Recycler(volume, { onCopied: (bytes) => this.copied(bytes) });
  }

  goal(): Goal {
    if (this.#options.leaksOnly === true) return goalInPlace(this.volume);
    return goalFor(this.volume, this.#options.keepErased);
  }

  budget(goal: Goal = this.goal()): Promise<RoundBudget> {
    return this.#room.budget(goal);
  }

  stop(): boolean {
    if (this.#options.stopped()) this.interrupted = true;
    return this.interrupted;
  }

  copied(bytes: number): void {
    this.bytesCopied += bytes;
    this.bytesTotal = Math.max(this.bytesTotal, this.bytesCopied);
    this.#options.onMoved(this.bytesCopied, this.bytesTotal);
  }

  roundDone(): void {
    this.rounds++;
    this.#assert();
  }

  #assert(): void {
    if (this.#options.runtimeAsserts) this.recycler.assertConsistent();
  }

  async assertInSync(): Promise<void> {
    if (this.#options.runtimeAsserts) await assertInSync(this.volume);
  }

  /** Refcount blocks where live clusters will be, none where they will not. What one release frees allows more. */
  async fitStructures(): Promise<void> {
    if (this.#options.leaksOnly === true) return;
    if ((await createMissingBlocks(this.recycler, this.goal())) > 0) this.wroteSinceBarrier = true;
    while (!this.#options.stopped()) {
      if ((await releaseUnneeded(this.recycler, this.goal())) === 0) break;
      this.wroteSinceBarrier = true;
    }
    this.#assert();
  }

  /** Refcount blocks for `clusters` neighbours after the file's end; false where the table has no entries for them. */
  async describeMore(clusters: number): Promise<boolean> {
    const described = await describeMore(this.recycler, clusters);
    if (described) this.wroteSinceBarrier = true;
    return described;
  }

  /**
   * Moves clusters, both arrays ascending, some of the destinations beyond the end of the file; `run`: the table
   * that they are, where they must stay together.
   */
  async moveClusters(sources: number[], destinations: number[], run?: Run): Promise<void> {
    const plan: Plan = {
      sources: Uint32Array.from(sources),
      destinations: Uint32Array.from(destinations),
      extendBy: Math.max(0, destinations.at(-1)! + 1 - this.volume.map.clusterCount),
      runStarts: new Map(run === undefined ? [] : [[run.first, run.count]]),
      lacks: 0,
    };
    const goal = this.goal();
    await this.runPlan(plan, goal, await this.budget(goal));
  }

  async runPlan(plan: Plan, goal: Goal, budget: RoundBudget): Promise<void> {
    const { clusters, image, clusterBytes } = this.volume;
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
      if (this.stop() || (budget.nearlyFull && (staying.length > 0 || r + 1 === ROUNDS_WHEN_FULL))) return;
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
    await this.shorten(atLeast);
    this.roundDone();
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
    const { map, clusters, image, clusterBytes } = this.volume;
    const { blocks } = image.refcounts;
    const last = map.lastCluster;
    if (last < goal.finalClusters || clusters.kind(last) !== Kind.refcountBlock) return;
    if (image.refcounts.indexOfBlock(last * clusterBytes) < goal.blockCount) return;
    // One that a later round of this plan moves must stay until then.
    const moving = (block: number) => block !== 0 && indexIn(plan.sources, block / clusterBytes) >= 0;
    if (moving(image.refcounts.tableOffset) || blocks.subarray(goal.blockCount).some(moving)) return;
    if ((await releaseUnneeded(this.recycler, goal)) > 0) await this.shorten(goal.finalClusters);
  }

  /** Writes lowered refcounts, then cuts the file: both in the window before the next barrier. */
  async shorten(atLeast: number): Promise<void> {
    const { refcounts } = this.volume.image;
    if (refcounts.hasDirty) this.wroteSinceBarrier = true;
    await this.recycler.writeCounts();
    if (await this.recycler.truncate(atLeast)) this.wroteSinceBarrier = true;
  }

  /**
   * After a failed copy the image is as valid as after a crash. Where the host still works (it is only full),
   * the destinations' counts are lowered again and what earlier rounds freed is cut off.
   */
  async settle(error: unknown): Promise<void> {
    if (this.recycler.failure !== null) return;
    if (!isHostFull(error)) return;
    try {
      await this.shorten(0);
      await this.recycler.flush();
    } catch {
      // The first error is the one to report; the image is valid either way.
    }
  }
}
