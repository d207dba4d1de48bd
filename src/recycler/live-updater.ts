/**
 * Lets every slot that names a source name its destination while clients change entries (recycler contract C32 to C45).
 * Slots were collected a while ago: each is looked at again, in memory where its table is there and else on disk, and a
 * move goes on only if the slots found account for all references. Called where no flush is under way, so that no copy of a
 * table is about to be written.
 */
import { SECTOR } from '../device/block-device.js';
import { QcowError, hex } from '../errors.js';
import { HI_COMPRESSED, entryOffset, retargetEntry } from '../format/entries.js';
import { viewOf } from '../format/words.js';
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { inParallel } from './in-parallel.js';
import type { LiveBatch } from './live-batches.js';
import type { LiveTable, LiveTables } from './live-tables.js';
import { Access, type RangeLocks } from './locks.js';
import { MoveState, type Moves } from './moves.js';
import { changedSpans } from './reference-updater.js';
import type { Volume } from './volume.js';

export interface LiveUpdate {
  /** Moves that could not take part since somebody holds a table that refers to them (C35). */
  blocked: Set<number>;
  /** Moves that are not wanted any more: what refers to their sources has changed (C37). */
  stale: Set<number>;
}

export interface LiveOptions {
  /** Until it is settled tables that clients are in are waited for; null: not at all. */
  tooLate: Promise<void> | null;
  /** Moves that are blocked still are cancelled. */
  givesUp: boolean;
}

/** Tables that are read or written at a time. */
const WORKERS = 8;

/** A group whose lock is held, with what is on disk from its first slot to its last. */
interface Locked {
  cluster: number;
  /** Position of `bytes` in the cluster. */
  start: number;
  bytes: Uint8Array;
  live: readonly LiveTable[];
  /** Slots that name the source of their move. */
  slots: number[];
}

export class LiveUpdater {
  readonly #volume: Volume;
  readonly #locks: RangeLocks;
  readonly #moves: Moves;
  readonly #live: LiveTables;
  /** Until then locks are waited for; null: not at all. */
  readonly #tooLate: Promise<void> | null;
  readonly #groups: Locked[] = [];
  readonly #releases: (() => void)[] = [];
  readonly #blocked = new Set<number>();
  readonly #stale = new Set<number>();
  #hasBegun = false;

  constructor(
    volume: Volume,
    locks: RangeLocks,
    moves: Moves,
    live: LiveTables,
    tooLate: Promise<void> | null,
  ) {
    this.#volume = volume;
    this.#locks = locks;
    this.#moves = moves;
    this.#live = live;
    this.#tooLate = tooLate;
  }

  /** Something is written: after a failure some slots may be on disk and some not. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /**
   * Of `batch` what is flushed. `commit`: all is written; in the turn in which the tables in memory change, and before any
   * lock is given back.
   */
  async run(batch: LiveBatch, commit: (updated: readonly number[]) => void): Promise<LiveUpdate> {
    const moves = this.#moves;
    try {
      const candidates = new Set(batch.moves.filter((move) => moves.state(move) === MoveState.flushed));
      await this.#lock(batch, candidates);
      const find = this.#live.index();
      await inParallel(this.#groups, WORKERS, 0, (group) => this.#read(group, find));
      // Nobody changes what is locked, and what was not found is not moved: from here on it is certain.
      const updated = this.#verify(candidates);
      moves.hold(updated);
      this.#hasBegun = updated.length > 0;
      const among = new Set(updated);
      const writes = this.#groups.map((group) => ({ group, changed: this.#retarget(group, among) }));
      await inParallel(writes, WORKERS, 0, async ({ group: { cluster, start, bytes }, changed }) => {
        const base = cluster * this.#volume.clusterBytes + start;
        for (const [from, to] of changedSpans(changed))
          await this.#volume.device.write(bytes.subarray(from, to), base + from);
      });
      for (const group of this.#groups) this.#retargetLive(group);
      commit(updated);
      return { blocked: this.#blocked, stale: this.#stale };
    } finally {
      moves.hold([]);
      for (const release of this.#releases) release();
    }
  }

  /** The locks that are to be had: on tables that move, for who goes through them, and on what refers. */
  async #lock({ groups }: LiveBatch, candidates: ReadonlySet<number>): Promise<void> {
    const { clusters } = this.#volume;
    const { sources, slots } = this.#moves;
    for (const move of candidates) {
      const isTable = clusters.kind(sources[move]!) === Kind.l2Table;
      if (isTable && !(await this.#take(sources[move]!))) this.#blocked.add(move);
    }
    for (const [cluster, named] of groups) {
      const wanted = named.filter((i) => candidates.has(slots.moves[i]!));
      if (wanted.length === 0 || !HOLD_ENTRIES.has(clusters.kind(cluster))) continue;
      if (await this.#take(cluster))
        this.#groups.push({ cluster, start: 0, bytes: new Uint8Array(0), live: [], slots: wanted });
      else for (const i of wanted) this.#blocked.add(slots.moves[i]!);
    }
  }

  async #take(cluster: number): Promise<boolean> {
    const release =
      this.#tooLate === null
        ? this.#locks.tryExclusive(cluster, 1)
        : await this.#locks.lockUntil(cluster, 1, Access.exclusive, this.#tooLate);
    if (release !== null) this.#releases.push(release);
    return release !== null;
  }

  /** Position in its cluster of slot `i`. */
  #within(i: number): number {
    return this.#moves.slots.offsets[i]! % this.#volume.clusterBytes;
  }

  #sourceOf(i: number): number {
    return this.#moves.sources[this.#moves.slots.moves[i]!]! * this.#volume.clusterBytes;
  }

  async #read(group: Locked, find: (cluster: number) => readonly LiveTable[]): Promise<void> {
    group.slots.sort((a, b) => this.#within(a) - this.#within(b));
    group.start = Math.floor(this.#within(group.slots[0]!) / SECTOR) * SECTOR;
    const end = Math.ceil((this.#within(group.slots.at(-1)!) + 8) / SECTOR) * SECTOR;
    group.bytes = new Uint8Array(end - group.start);
    group.live = find(group.cluster);
    await this.#volume.device.read(group.bytes, group.cluster * this.#volume.clusterBytes + group.start);
  }

  /** The moves all of whose references are found, with counts that say the same. */
  #verify(candidates: ReadonlySet<number>): number[] {
    const { clusters } = this.#volume;
    const { slots } = this.#moves;
    const paths = new Map<number, number>();
    for (const group of this.#groups) {
      const each = clusters.kind(group.cluster) === Kind.l2Table ? clusters.refs[group.cluster]! : 1;
      group.slots = group.slots.filter((i) => this.#targetNow(group, i) === this.#sourceOf(i));
      for (const i of group.slots) paths.set(slots.moves[i]!, (paths.get(slots.moves[i]!) ?? 0) + each);
    }
    const updated: number[] = [];
    for (const move of candidates) {
      if (this.#blocked.has(move)) continue;
      if (this.#isSettled(move, paths.get(move) ?? 0)) updated.push(move);
      else this.#stale.add(move);
    }
    return updated;
  }

  /** `paths`: references found. A count that is still to come down says that a pointer on disk is yet to go. */
  #isSettled(move: number, paths: number): boolean {
    const { clusters, map, image } = this.#volume;
    const source = this.#moves.sources[move]!;
    const refs = clusters.refs[source]!;
    return (
      this.#moves.state(move) === MoveState.flushed &&
      map.is(source, State.live) &&
      paths === refs &&
      image.refcounts.get(source) === refs &&
      image.refcounts.get(this.#moves.destinations[move]!) === refs
    );
  }

  /** What slot `i` names: as its table in memory says, where it is there. */
  #targetNow({ live: [live], bytes, start }: Locked, i: number): number {
    const within = this.#within(i);
    return live === undefined ? targetAt(bytes, within - start) : targetAt(live.bytes, live.from + within);
  }

  /** Retargets what is on disk; answers the positions that are to be written. */
  #retarget(group: Locked, updated: ReadonlySet<number>): number[] {
    const { clusterBytes } = this.#volume;
    const { slots, destinations } = this.#moves;
    group.slots = group.slots.filter((i) => updated.has(slots.moves[i]!));
    const view = viewOf(group.bytes);
    const changed: number[] = [];
    for (const i of group.slots) {
      const position = this.#within(i) - group.start;
      if (targetAt(group.bytes, position) === this.#sourceOf(i)) {
        retargetEntry(view, position, destinations[slots.moves[i]!]! * clusterBytes);
        changed.push(position);
      } else if (!group.live.some(({ from, isDirtyAt }) => isDirtyAt(from + this.#within(i)))) {
        throw changedUnderUs(group.cluster * clusterBytes + this.#within(i));
      }
    }
    return changed;
  }

  /** The tables in memory follow; what is still to be written of them is so afterwards. */
  #retargetLive({ live, slots }: Locked): void {
    for (const { bytes, from } of live) {
      const view = viewOf(bytes);
      for (const i of slots) {
        const destination = this.#moves.destinations[this.#moves.slots.moves[i]!]!;
        retargetEntry(view, from + this.#within(i), destination * this.#volume.clusterBytes);
      }
    }
  }
}

const HOLD_ENTRIES = new Set<Kind>([Kind.l1Table, Kind.l2Table, Kind.refcountTable, Kind.bitmapTable]);

/** -1: something else than a cluster. */
function targetAt(bytes: Uint8Array, position: number): number {
  const view = viewOf(bytes);
  const hi = view.getUint32(position);
  return (hi & HI_COMPRESSED) !== 0 ? -1 : entryOffset(hi, view.getUint32(position + 4));
}

function changedUnderUs(slot: number): QcowError {
  return new QcowError('CORRUPT', 'a reference on disk changed under us', {
    where: `host offset ${hex(slot)}`,
    hint: 'another program writes to this image; nothing was written',
  });
}
