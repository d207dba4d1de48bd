/**
 * The recycler: erases junk, moves clusters, updates references, flushes, truncates (recycler contract).
 * One class for both uses: here it is driven step by step without clients; beside live I/O the same steps run
 * under the same locks. A round reads like design section 4: begin, copy, flush, update, flush, truncate.
 */
import { Kind } from '../image/host-clusters.js';
import { type ClusterMap, State } from './cluster-map.js';
import { BarrierQueue } from './barrier-queue.js';
import { copyMoves } from './copier.js';
import { type EraseStep, eraseJunk, range } from './eraser.js';
import type { LiveTables } from './live-tables.js';
import { type LiveBatch, batchesOf } from './live-batches.js';
import { type LiveOptions, LiveUpdater } from './live-updater.js';
import { Mutex, RangeLocks } from './locks.js';
import { MoveState, type Moves, assertMayMove } from './moves.js';
import { updateSlots } from './reference-updater.js';
import { assertStates } from './sync-check.js';
import type { Volume } from './volume.js';
import { WorkSignal } from './work-signal.js';

/** Calls of `updateReferences` that a move may stay blocked before it is cancelled (W10). */
const BLOCKED_RETRIES = 3;

export interface RecyclerEvents {
  /** A move's bytes are at their destination. */
  onCopied?: (bytes: number) => void;
  /** Awaited before each piece of a copy, without a lock; false leaves it out, for the moves are to be cancelled. */
  mayCopy?: (bytes: number) => Promise<boolean>;
}

export class Recycler {
  readonly volume: Volume;
  readonly locks = new RangeLocks();
  /** Raised by every change that can create work (C10). */
  readonly work = new WorkSignal();
  /** Guards allocation, growth and truncation: no two at a time (C13). */
  readonly metadata = new Mutex();
  /** A barrier sees either none or all of a reference update (C36, C46). */
  readonly #flushing = new Mutex();
  #events: RecyclerEvents;
  #moves: Moves | null = null;
  #placeOf: (cluster: number) => number = (cluster) => cluster;
  /** Tables that clients have in memory; null where there are no clients. */
  #live: LiveTables | null = null;
  readonly #queue = new BarrierQueue();
  /** Counts are written by one caller at a time, so that a later count is not overtaken by an earlier one. */
  readonly #counting = new Mutex();
  #failure: Error | null = null;
  #blockedCalls = 0;
  barriers = 0;
  referencesUpdated = 0;
  clustersErased = 0;
  clustersMoved = 0;

  constructor(volume: Volume, events: RecyclerEvents = {}) {
    this.volume = volume;
    this.#events = events;
    this.map.onChange = () => this.work.raise();
  }

  get map(): ClusterMap {
    return this.volume.map;
  }

  /** The failure that ended all further work, or null. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** Clients are at work, with tables in memory, from now on. */
  attach(live: LiveTables, events: RecyclerEvents): void {
    this.#live = live;
    this.#events = events;
  }

  /** No further step may follow: what is on disk is valid, but not certain. */
  fail(error: unknown): Error {
    this.#failure ??= error instanceof Error ? error : new Error(String(error));
    return this.#failure;
  }

  get unfinishedMoves(): boolean {
    return this.#moves?.unfinished ?? false;
  }

  /** The state of the move of `source`, for those who look from outside; undefined where it does not move. */
  moveState(source: number): MoveState | undefined {
    const index = this.#moves?.find(source) ?? -1;
    return index < 0 ? undefined : this.#moves!.state(index);
  }

  /** Some move is in `state`. */
  hasMoves(state: MoveState): boolean {
    return (this.#moves?.inState(state).length ?? 0) > 0;
  }

  /** Moves that are neither complete nor cancelled. */
  get movesUnderWay(): number {
    return this.#moves?.openDestinations().size ?? 0;
  }

  #requireWorking(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /**
   * Registers a round: every move copying, every destination junk -> copy, without an await (C21).
   * `placeOf` tells where a table is that moved in an earlier round of the same plan.
   */
  begin(moves: Moves, placeOf: (cluster: number) => number = (cluster) => cluster): void {
    this.#requireWorking();
    if (this.unfinishedMoves) throw new Error('a round begins while moves of the last one are unfinished');
    assertMayMove(this.volume, moves);
    this.map.transition(moves.destinations, State.junk, State.copy);
    moves.join(this.volume.runs());
    this.#moves = moves;
    this.#placeOf = placeOf;
    this.#blockedCalls = 0;
  }

  /** Raises the destinations' refcounts and copies. Copying -> Copied; the first failure cancels all (C27). */
  async copy(): Promise<void> {
    this.#requireWorking();
    const moves = this.#current();
    const { refcounts } = this.volume.image;
    try {
      for (const i of moves.inState(MoveState.copying)) {
        refcounts.set(moves.destinations[i]!, this.volume.clusters.refs[moves.sources[i]!]!);
      }
      await this.writeCounts();
      const { onCopied = () => undefined, mayCopy } = this.#events;
      await copyMoves(this.volume, this.locks, moves, { onCopied, mayCopy, hasClients: this.#live !== null });
    } catch (error) {
      this.cancelAll();
      throw error;
    }
  }

  #current(): Moves {
    if (this.#moves === null) throw new Error('no round has begun');
    return this.#moves;
  }

  /** Writes the counts that differ from the disk. A lowered count is that of a cluster nothing refers to. */
  async writeCounts(): Promise<void> {
    await this.#counting.run(async () => {
      this.#requireWorking();
      await this.volume.image.refcounts.writeDirty(this.volume.device);
    });
  }

  /** A count changes: a copy that was made of its refcount block is stale now (C41). */
  #setCount(cluster: number, count: number): void {
    const { refcounts } = this.volume.image;
    if (refcounts.get(cluster) === count) return;
    refcounts.set(cluster, count);
    this.cancel(refcounts.blocks[Math.floor(cluster / refcounts.perBlock)]! / this.volume.clusterBytes);
  }

  /**
   * Forgets the move of `source` where it is still open, and those of tables whose copies name its destination;
   * the destinations are junk again at once (C28).
   */
  cancel(source: number): boolean {
    const moves = this.#moves;
    const index = moves?.find(source) ?? -1;
    if (moves === null || index < 0 || moves.state(index) > MoveState.flushed) return false;
    for (const i of moves.withDependants(index, this.volume.clusterBytes)) this.#cancel(moves, i);
    return true;
  }

  cancelAll(): void {
    const moves = this.#moves;
    for (let i = 0; moves !== null && i < moves.length; i++) this.#cancel(moves, i);
  }

  #cancel(moves: Moves, index: number): void {
    if (!moves.cancel(index)) return;
    const destination = moves.destinations[index]!;
    this.map.transition([destination], State.copy, State.junk);
    this.#setCount(destination, 0);
  }

  /** Somebody changed a table: its copy under way is stale, so its move is cancelled (C41). */
  tableChanged(cluster: number): void {
    this.cancel(cluster);
  }

  /**
   * Barrier. Whatever was copied, rewritten, erased or left before it advances (C46 to C51). A failed barrier
   * advances nothing and is final: a second fsync on the same file may lie.
   */
  async flush(): Promise<void> {
    await this.#flushing.run(async () => {
      this.#requireWorking();
      const moves = this.#moves;
      const copied = moves?.inState(MoveState.copied) ?? [];
      const referenced = moves?.inState(MoveState.referenced) ?? [];
      const queued = this.#queue.take();
      this.map.barrierBegins();
      try {
        await this.volume.device.flush();
      } catch (error) {
        this.fail(error);
        this.map.barrierDone();
        this.#queue.putBack(queued);
        throw error;
      }
      this.barriers++;
      for (const i of copied) moves!.advance(i, MoveState.flushed);
      for (const { first, count } of queued.erased) {
        this.map.barrierEnds(range(first, count), State.erased, State.available);
      }
      // In the same turn as their state: a count that is lowered later could be that of their next use.
      for (const cluster of queued.lowering) this.#lowerCount(cluster);
      for (const cluster of this.map.barrierEnds(queued.leaving, State.leaving, State.junk))
        if (this.volume.image.refcounts.covers(cluster)) this.#setCount(cluster, 0);
      this.map.barrierDone();
      for (const i of referenced) this.#complete(moves!, i);
      if (copied.length > 0) this.work.raise();
    });
  }

  /** No count becomes 1 under an active entry without COPIED: only a move puts that right (I3). */
  #lowerCount(cluster: number): void {
    const { clusters, image } = this.volume;
    const count = image.refcounts.get(cluster) - 1;
    if (count >= clusters.refs[cluster]! && !clusters.needsFlag(cluster)) this.#setCount(cluster, count);
  }

  #complete(moves: Moves, index: number): void {
    this.clustersMoved++;
    const source = moves.sources[index]!;
    const destination = moves.destinations[index]!;
    moves.advance(index, MoveState.complete);
    // A discard may have taken the destination meanwhile: the move still completes for its source (W21).
    if (this.map.is(destination, State.copy)) this.map.transition([destination], State.copy, State.live);
    this.map.transition([source], State.leaving, State.junk);
    this.#setCount(source, 0);
  }

  /** Clusters that nothing on disk will name once the next barrier is done: live -> leaving (C2). */
  leave(clusters: number[]): void {
    this.map.transition(clusters, State.live, State.leaving);
    for (const cluster of clusters) this.volume.clusters.forget(cluster);
    this.release([], clusters);
  }

  /**
   * What pointers have let go of, now that the slots that named it are written: at the next barrier the counts of
   * `lowered` come down by one for each time that they are listed, and `gone`, leaving until then, is junk.
   */
  release(lowered: readonly number[], gone: readonly number[]): void {
    // No spread: there may be more than a call takes arguments.
    for (const cluster of lowered) this.#queue.lowering.push(cluster);
    for (const cluster of gone) this.#queue.leaving.push(cluster);
  }

  /** Held clusters that are not used after all: junk, whose bytes are unknown (C14). */
  giveBack(clusters: readonly number[]): void {
    this.map.transition(clusters, State.held, State.junk);
    for (const cluster of clusters) this.#setCount(cluster, 0);
  }

  /** Flushed -> Referenced: rewrites every slot that names a source. Answers the number of references (C42). */
  async updateReferences(): Promise<number> {
    return this.#flushing.run(async () => {
      this.#requireWorking();
      const moves = this.#current();
      let result;
      try {
        result = await updateSlots(this.volume, this.locks, moves, this.#placeOf);
      } catch (error) {
        // Some slots may be on disk and some not: every such state is valid, but no step may follow (I2).
        throw this.fail(error);
      }
      const flushed = moves.inState(MoveState.flushed).filter((i) => !result.deferred.has(i));
      for (const i of flushed) this.#reference(moves, i);
      if (result.blocked.size > 0 && ++this.#blockedCalls > BLOCKED_RETRIES) {
        for (const i of result.blocked) this.cancel(moves.sources[i]!);
      }
      return this.#countReferences(moves, flushed);
    });
  }

  /** Flushed moves in parts that `updateLive` takes one after the other, `mostTables` each where one move has no more. */
  liveBatches(mostTables: number): LiveBatch[] {
    return batchesOf(this.volume, this.#current(), mostTables);
  }

  /** The same beside clients, of those in `batch` that are flushed still. */
  async updateLive(batch: LiveBatch, { tooLate, givesUp }: LiveOptions): Promise<number> {
    return this.#flushing.run(async () => {
      this.#requireWorking();
      const moves = this.#current();
      const updater = new LiveUpdater(this.volume, this.locks, moves, this.#live!, tooLate);
      let updated: readonly number[] = [];
      try {
        const { blocked, stale } = await updater.run(batch, (written) => {
          updated = written;
          for (const i of written) this.#reference(moves, i);
        });
        for (const i of givesUp ? [...stale, ...blocked] : stale) this.cancel(moves.sources[i]!);
      } catch (error) {
        // Before the first write nothing has happened; later, every state on disk is valid, but none is certain (I2).
        throw updater.hasBegun ? this.fail(error) : error;
      }
      return this.#countReferences(moves, [...updated]);
    });
  }

  #countReferences(moves: Moves, updated: number[]): number {
    const references = moves.countSlots(updated);
    this.referencesUpdated += references;
    return references;
  }

  /** Writes entries that refer elsewhere now. A failure is final: some may be on disk and some not (I2). */
  async writeReferences(bytes: Uint8Array, offset: number): Promise<void> {
    this.#requireWorking();
    try {
      await this.volume.device.write(bytes, offset);
    } catch (error) {
      throw this.fail(error);
    }
  }

  #reference(moves: Moves, index: number): void {
    const { clusters } = this.volume;
    const source = moves.sources[index]!;
    const destination = moves.destinations[index]!;
    const kind = clusters.kind(source);
    moves.advance(index, MoveState.referenced);
    clusters.moved(source, destination, moves.flagged(source));
    if (kind === Kind.l2Table) this.#live?.moved(source, destination);
    if (kind !== Kind.data && kind !== Kind.l2Table) this.volume.tableMoved(kind, source, destination);
    this.map.transition([source], State.live, State.leaving);
  }

  /**
   * Erases up to `amount` junk clusters (C16 is the caller's arithmetic); they are available after a barrier.
   * `count`: their refcount from then on, 1 for a pool that pointers may name without waiting for it (design 4).
   */
  async erase(amount: number, punch: boolean, count: 0 | 1 = 0): Promise<EraseStep> {
    this.#requireWorking();
    const step = await eraseJunk(this.volume, amount, punch, count > 0);
    // A leaked cluster becomes free for the guest only with its refcount at zero.
    for (const { first, count: clusters } of step.erased) {
      for (const cluster of range(first, clusters)) this.#setCount(cluster, count);
    }
    for (const interval of step.erased) this.#queue.erased.push(interval);
    this.clustersErased += step.clusters;
    return step;
  }

  /**
   * Cuts the file after its last cluster in use, but keeps at least `atLeast` clusters (C59). Whatever lies
   * beyond was unreferenced before the last barrier (C61). Answers whether the file got shorter.
   */
  async truncate(atLeast = 0): Promise<boolean> {
    return this.metadata.run(async () => {
      this.#requireWorking();
      const { device, clusterBytes } = this.volume;
      const count = Math.max(this.map.lastCluster + 1, atLeast);
      const shorter = count * clusterBytes < device.lengthBytes;
      if (shorter) await device.truncate(count * clusterBytes);
      // The map follows only when the file has (W19).
      if (count < this.map.clusterCount) {
        this.map.truncate(count);
        this.volume.resize(count);
      }
      return shorter;
    });
  }

  /** Makes room for `count` more junk clusters at the end of the file; they read as zeroes. */
  async extend(count: number): Promise<void> {
    await this.metadata.run(() => this.extendLocked(count));
  }

  /** The same for who holds the metadata lock. */
  async extendLocked(count: number): Promise<void> {
    this.#requireWorking();
    const { device, clusterBytes } = this.volume;
    const from = this.map.clusterCount;
    await device.truncate((from + count) * clusterBytes);
    this.map.extend(count);
    this.volume.resize(from + count);
    const added = range(from, count);
    this.map.transition(added, State.available, State.held);
    this.map.transition(added, State.held, State.junk);
  }

  /** C1, C70: the map, the references and the table of moves agree; for `runtimeAsserts`. */
  assertConsistent(): void {
    assertStates(this.volume, this.#moves?.openDestinations() ?? new Set());
  }
}
