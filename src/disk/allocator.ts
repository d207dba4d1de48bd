/**
 * Clusters for what clients write: from a pool that reads as zeroes on stable storage and whose refcounts are 1 there
 * already, so that a pointer need not wait for either (recycler contract C7, C11 to C14). The pool is filled from junk,
 * and where there is not enough of it from the end of the file.
 */
import { State } from '../recycler/cluster-map.js';
import { range } from '../recycler/eraser.js';
import { describeHoles, growFile } from '../recycler/growth.js';
import { Mutex } from '../recycler/locks.js';
import type { Recycler } from '../recycler/recycler.js';

/** What one filling of the pool takes, at the least and at the most, as a share of the file in between. */
const LEAST_FILL_BYTES = 1 << 20;
const MOST_FILL_BYTES = 64 << 20;
const SHARE_OF_FILE = 1 / 8;

interface Stretch {
  first: number;
  count: number;
}

export class Allocator {
  readonly #recycler: Recycler;
  readonly #fillBytes: number | undefined;
  /** Available clusters, in the order in which they are taken. */
  #pool: Stretch[] = [];
  #pooled = 0;
  /**
   * Held by who fills the pool or takes away from it what it is made of: the end of the file, refcount blocks. Before the
   * metadata lock.
   */
  readonly supply = new Mutex();

  /** `fillBytes`: what one filling takes; by default it follows the length of the file. */
  constructor(recycler: Recycler, fillBytes?: number) {
    this.#recycler = recycler;
    this.#fillBytes = fillBytes;
  }

  /** `count` clusters, held; neighbours where that can be had. All or none. */
  async allocate(count: number): Promise<number[]> {
    for (;;) {
      const taken = (await this.#takeNow(count)) ?? (await this.supply.run(() => this.#takeOrFill(count)));
      if (taken !== null) return taken;
    }
  }

  /** Not while somebody truncates. */
  async #takeNow(count: number): Promise<number[] | null> {
    const { metadata, failure } = this.#recycler;
    if (failure !== null) throw failure;
    return metadata.busy ? metadata.run(() => Promise.resolve(this.#take(count))) : this.#take(count);
  }

  /**
   * Of several that wait the first fills the pool for all. Who fills takes, before anybody gets in who gives the pool back:
   * else the two could go on for ever.
   */
  async #takeOrFill(count: number): Promise<number[] | null> {
    const taken = await this.#takeNow(count);
    if (taken !== null) return taken;
    await this.#fill(count);
    return this.#takeNow(count);
  }

  /** Without an await: nobody else gets the same (C12). Null where there are not so many. */
  #take(count: number): number[] | null {
    if (this.#pooled < count) return null;
    const { map } = this.#recycler;
    const taken: number[] = [];
    while (taken.length < count && this.#pool.length > 0) {
      const stretch = this.#pool[0]!;
      if (map.is(stretch.first, State.available)) taken.push(stretch.first);
      stretch.first++;
      this.#pooled--;
      if (--stretch.count === 0) this.#pool.shift();
    }
    if (taken.length === count) {
      map.transition(taken, State.available, State.held);
      return taken;
    }
    this.#add(taken);
    return null;
  }

  #add(clusters: Iterable<number>): void {
    for (const cluster of clusters) {
      const last = this.#pool.at(-1);
      if (last !== undefined && last.first + last.count === cluster) last.count++;
      else this.#pool.push({ first: cluster, count: 1 });
      this.#pooled++;
    }
  }

  async #fill(count: number): Promise<void> {
    const recycler = this.#recycler;
    const { map, image } = recycler.volume;
    const wanted = Math.max(count, this.clustersPerFill);
    // Junk in a range without a refcount block cannot be used before it has one.
    await describeHoles(recycler);
    const { blocks, perBlock } = image.refcounts;
    // What lies behind all that the table has entries for is junk that a longer table is yet to describe.
    const junk = map.countOf(State.junk) - Math.max(0, map.clusterCount - blocks.length * perBlock);
    if (junk < count) await growFile(recycler, wanted - junk);
    await this.#erase(wanted);
  }

  /** Makes as much of `clusters` junk clusters ready as there are, before somebody has to wait for it. */
  async refill(clusters: number): Promise<void> {
    await this.supply.run(async () => {
      await describeHoles(this.#recycler);
      await this.#erase(clusters);
    });
  }

  async #erase(clusters: number): Promise<void> {
    const recycler = this.#recycler;
    const { map, device } = recycler.volume;
    const { erased } = await recycler.erase(clusters, device.canPunch, 1);
    const available = function* () {
      for (const { first, count } of erased)
        for (const cluster of range(first, count)) if (map.is(cluster, State.available)) yield cluster;
    };
    try {
      await recycler.writeCounts();
      await recycler.flush();
    } catch (error) {
      // The zeroes are there, but not the counts: nobody may take them. A barrier makes them available all the same.
      if (recycler.failure === null) await recycler.flush();
      this.#giveBack([...available()]);
      throw error;
    }
    this.#add(available());
  }

  /** What is made ready at a time: who needs a cluster meanwhile waits for all of them. */
  get clustersPerFill(): number {
    const { map, clusterBytes } = this.#recycler.volume;
    const share = map.clusterCount * clusterBytes * SHARE_OF_FILE;
    const bytes = this.#fillBytes ?? Math.min(MOST_FILL_BYTES, Math.max(LEAST_FILL_BYTES, share));
    return Math.max(1, Math.ceil(bytes / clusterBytes));
  }

  /** The pool is junk again, with refcounts of 0: what is not used when the device is closed is no leak. */
  dissolve(): void {
    this.#giveBack(this.#available());
  }

  /** Of the pool the first `count` clusters stay; the others are junk again, which may be used or cut off. */
  async shrink(count: number): Promise<void> {
    await this.supply.run(() => Promise.resolve(this.#giveBack(this.#available().slice(count))));
  }

  /** What the pool has from `cluster` on is junk again; for who holds `supply`, so that no filling is half done. */
  giveBackFrom(cluster: number): void {
    this.#giveBack(this.#available().filter((available) => available >= cluster));
  }

  /** Ascending. */
  #available(): number[] {
    const { map } = this.#recycler;
    const pooled = this.#pool.flatMap(({ first, count }) => range(first, count));
    return pooled.filter((cluster) => map.is(cluster, State.available)).sort((a, b) => a - b);
  }

  #giveBack(clusters: number[]): void {
    if (clusters.length === 0) return;
    this.#recycler.map.transition(clusters, State.available, State.held);
    this.#recycler.giveBack(clusters);
    const left = this.#available();
    this.#pool = [];
    this.#pooled = 0;
    this.#add(left);
  }
}
