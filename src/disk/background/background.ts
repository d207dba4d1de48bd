/**
 * The work in the background of a live disk: a pool that is ready before it is needed, and a file that gets shorter while
 * clients use it (recycler contract C52 to C58). One piece at a time, and after each all is looked at anew.
 */
import { State } from '../../recycler/cluster-map.js';
import { amountToErase } from '../../recycler/eraser.js';
import { MoveState } from '../../recycler/moves.js';
import { Mutex } from '../../recycler/locks.js';
import { LiveCompaction } from './compaction.js';
import type { BackgroundContext } from './context.js';
import { type Decision, type Look, decide } from './decision.js';
import { DelayedFlusher } from './delayed-flusher.js';
import { JunkWatch } from './junk-watch.js';
import type { Throttle } from './throttle.js';

/** Changes within so long are looked at together. */
const LOOK_SECONDS = 0.02;
/** After a failure the host gets so long before it is asked again. */
const PAUSE_SECONDS = 30;

export interface BackgroundOptions {
  context: BackgroundContext;
  /** Junk clusters above which compaction begins; null: only when asked for. */
  compactAfter: number | null;
  throttle: Throttle;
  /** Before the first change to the file. */
  begin: () => Promise<void>;
}

export class Background {
  readonly #context: BackgroundContext;
  readonly #compactAfter: number | null;
  readonly #begin: () => Promise<void>;
  readonly #throttle: Throttle;
  /** Waits for its turn beside the clients; false: the work is to end. */
  readonly #mayWrite: (bytes: number) => Promise<boolean>;
  readonly #compaction: LiveCompaction;
  readonly #delayed: DelayedFlusher;
  readonly #watch = new JunkWatch();
  /** One piece of work at a time, those that were asked for included (C22). */
  readonly #turn = new Mutex();
  #isStopping = false;
  #stopped: Promise<void> | null = null;
  #loop: Promise<void> | null = null;
  #failure: Error | null = null;
  /** How often something has failed. */
  failures = 0;
  /** `compactNow` is under way. */
  #isAsked = false;
  /** The one that is to begin next. */
  #next: Promise<number> | null = null;
  /** So much was reclaimable when nothing could be moved: not tried again before that changes. */
  #nothingAt = -1;
  #lastBefore = -1;
  #hasJustErased = false;
  #pausedUntil = -Infinity;

  constructor({ context, compactAfter, throttle, begin }: BackgroundOptions) {
    this.#context = context;
    this.#compactAfter = compactAfter;
    this.#begin = begin;
    this.#throttle = throttle;
    this.#delayed = new DelayedFlusher(context.clock, () => this.#flush());
    this.#mayWrite = async (bytes) => {
      await throttle.pass(bytes, () => this.#isStopping);
      return !this.#isStopping;
    };
    this.#compaction = new LiveCompaction(context, this.#mayWrite, () => this.#isStopping);
  }

  /** The last failure; null where all that was tried since has succeeded. */
  get failure(): Error | null {
    return this.#context.recycler.failure ?? this.#failure;
  }

  get isCompacting(): boolean {
    return this.#compaction.isUnderWay || this.#isAsked || this.#next !== null;
  }

  get bytesReclaimed(): number {
    return this.#compaction.bytesReclaimed;
  }

  /** Bytes of the file before which nothing needed to move, as far as the last compaction knows. */
  get fixedBytes(): number {
    return this.#compaction.fixedBytes;
  }

  /** Works on its own from now on, where there is something to do. */
  start(): void {
    if (this.#context.keepErased > 0 || this.#compactAfter !== null) this.#loop ??= this.#work();
  }

  /** Nothing new is begun; the step at hand is finished, and a barrier leaves nothing under way. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#isStopping = true;
    const { recycler } = this.#context;
    recycler.work.raise();
    await this.#loop;
    await this.#delayed.stop();
    await this.#turn.run(async () => {
      this.#compaction.giveUp();
      if (recycler.unfinishedMoves && recycler.failure === null) await recycler.flush();
    });
  }

  /**
   * Compacts at once, however little there is to gain; ends when nothing is left to move, or clients change all that is to.
   * Answers the bytes that the file has become shorter by. Who asks while one waits for its turn shares it.
   */
  compactNow(): Promise<number> {
    this.#next ??= this.#turn.run(async () => {
      this.#next = null;
      this.#isAsked = true;
      try {
        return await this.#compact();
      } finally {
        this.#isAsked = false;
      }
    });
    return this.#next;
  }

  async #compact(): Promise<number> {
    if (this.#isStopping) return 0;
    const { device } = this.#context.recycler.volume;
    const before = device.lengthBytes;
    try {
      await this.#begin();
      await this.#compaction.toFixpoint();
      this.#failure = null;
      return Math.max(0, before - device.lengthBytes);
    } catch (error) {
      this.#failed(error);
      throw error;
    }
  }

  async #work(): Promise<void> {
    const { clock, recycler } = this.#context;
    while (!this.#isStopping && recycler.failure === null) {
      const seen = recycler.work.version;
      const did = await this.#turn.run(() => this.#step());
      if (this.#needsFlush()) this.#delayed.request();
      if (did !== 'poll' && did !== 'wait') continue;
      const left = this.#secondsToWait(did);
      const changed = recycler.work.wait(seen);
      await (left === null ? changed : Promise.race([changed, clock.sleep(left)]));
      await clock.sleep(LOOK_SECONDS);
    }
  }

  /** Seconds after which there may be something to do though nothing has changed; null: never. */
  #secondsToWait(did: Decision): number | null {
    const now = this.#context.clock.now();
    if (now < this.#pausedUntil) return this.#pausedUntil - now;
    return did === 'poll' ? this.#watch.left(now) : null;
  }

  async #step(): Promise<Decision> {
    if (this.#isStopping || this.#context.clock.now() < this.#pausedUntil) return 'wait';
    const decision = decide(this.#look());
    this.#hasJustErased = decision === 'erase';
    if (decision === 'poll' || decision === 'wait') return decision;
    try {
      await this.#begin();
      await this.#do(decision);
      this.#failure = null;
    } catch (error) {
      this.#failed(error);
    }
    return decision;
  }

  /** Clusters: junk, and what of the pool nobody asked for. */
  #reclaimable(): number {
    const { recycler, keepErased } = this.#context;
    const { map } = recycler;
    return map.countOf(State.junk) + Math.max(0, map.pooled - keepErased);
  }

  #look(): Look {
    const { recycler, keepErased, clock } = this.#context;
    const { map } = recycler;
    const { blocks, perBlock } = recycler.volume.image.refcounts;
    // What no refcount block can describe yet cannot be erased for the pool.
    const undescribed = Math.max(0, map.clusterCount - blocks.length * perBlock);
    const junk = map.countOf(State.junk);
    const reclaimable = this.#reclaimable();
    const isWanted =
      this.#compactAfter !== null && reclaimable > this.#compactAfter && reclaimable !== this.#nothingAt;
    const isCompacting = this.#compaction.isUnderWay;
    if (!isWanted && !isCompacting) this.#watch.reset();
    const last = map.lastCluster;
    const lastBefore = this.#lastBefore;
    this.#lastBefore = Math.max(last, lastBefore);
    return {
      keepErased,
      pool: map.pooled,
      junk: Math.max(0, junk - undescribed),
      reclaimable,
      compactAfter: isWanted ? this.#compactAfter : null,
      isCompacting,
      isStable: !isCompacting && isWanted && this.#watch.isStable(clock.now(), reclaimable),
      hasJustErased: this.#hasJustErased,
      hasFlushedMoves: recycler.hasMoves(MoveState.flushed),
      hasUnfinishedMoves: recycler.unfinishedMoves,
      last,
      lastBefore,
    };
  }

  async #do(decision: Decision): Promise<void> {
    const { recycler, allocator, flusher, keepErased } = this.#context;
    if (decision === 'erase') {
      const amount = Math.min(allocator.clustersPerFill, amountToErase(recycler.map, keepErased));
      if (await this.#mayWrite(amount * recycler.volume.clusterBytes)) await allocator.refill(amount);
    } else if (decision === 'update references') await this.#compaction.updateReferences();
    else if (decision === 'compact') await this.#compactStep();
    else await this.#compaction.shorten();
    if (decision === 'compact' || decision === 'truncate') this.#lastBefore = recycler.map.lastCluster;
    // While clients rest nobody minds a barrier more, and rounds need not wait for the delayed one.
    if (this.#compaction.isUnderWay && !this.#throttle.isBusy) await flusher.flush();
  }

  async #compactStep(): Promise<void> {
    const ended = await this.#compaction.step();
    if (ended === null) return;
    this.#watch.reset();
    if (ended === 'nothing') this.#nothingAt = this.#reclaimable();
  }

  #needsFlush(): boolean {
    const { recycler, tables } = this.#context;
    const { map } = recycler;
    return (
      recycler.failure === null &&
      (tables.hasChanges ||
        map.countOf(State.leaving) + map.countOf(State.erased) > 0 ||
        recycler.hasMoves(MoveState.copied))
    );
  }

  async #flush(): Promise<void> {
    try {
      await this.#context.flusher.flush();
    } catch (error) {
      this.#note(error);
      // Not beside a copy that is under way: what it writes to would be free at once.
      await this.#turn.run(() => Promise.resolve(this.#compaction.giveUp()));
    }
  }

  /** Within a turn. */
  #failed(error: unknown): void {
    this.#note(error);
    this.#compaction.giveUp();
  }

  /** Kept for who asks; the next try comes later (C58). */
  #note(error: unknown): void {
    this.failures++;
    this.#failure = error instanceof Error ? error : new Error(String(error));
    this.#pausedUntil = this.#context.clock.now() + PAUSE_SECONDS;
  }
}
