/** What lies behind the last cluster in use is cut off, with the refcount blocks that describe nothing else (C59 to C61). */
import { State } from '../../recycler/cluster-map.js';
import { goalFor } from '../../recycler/goal.js';
import { releaseUnneeded } from '../../recycler/structures.js';
import { moveTable } from '../../recycler/table-move.js';
import type { BackgroundContext } from './context.js';

export class FileEnd {
  readonly #context: BackgroundContext;
  /** Bytes that the file once had. */
  #longest = 0;

  constructor(context: BackgroundContext) {
    this.#context = context;
  }

  /** Bytes that the file is shorter by than it once was. */
  get bytesReclaimed(): number {
    return Math.max(0, this.#longest - this.#context.recycler.volume.device.lengthBytes);
  }

  /** As long as what is in use, with room for the pool where the file has it. True where blocks left holes behind. */
  async shorten(): Promise<boolean> {
    return this.#context.allocator.supply.run(async () => {
      let released = 0;
      for (; ; released++) {
        await this.#cut();
        if (!(await this.#releaseLastBlock())) return released > 0;
      }
    });
  }

  /** The refcount table goes to the front where it lies behind all that a file without junk has. */
  async moveTable(): Promise<void> {
    const { allocator, recycler } = this.#context;
    const { refcounts } = recycler.volume.image;
    await allocator.supply.run(async () => {
      const first = refcounts.tableOffset / recycler.volume.clusterBytes;
      if (first < this.#wantedClusters || !(await moveTable(recycler, first))) return;
      // Its old place is free.
      await recycler.flush();
    });
  }

  /** Clusters of a file without junk. */
  get #wantedClusters(): number {
    const { map } = this.#context.recycler;
    return map.clusterCount - map.countOf(State.junk) - map.pooled + this.#context.keepErased;
  }

  async #cut(): Promise<void> {
    const { recycler, allocator } = this.#context;
    const { map, device } = recycler.volume;
    const wanted = Math.min(map.clusterCount, this.#wantedClusters);
    const kept = Math.max(map.lastCluster + 1, wanted);
    // Counts of what is cut off would count for whatever is there later.
    allocator.giveBackFrom(kept);
    await recycler.writeCounts();
    this.#longest = Math.max(this.#longest, device.lengthBytes);
    await recycler.truncate(kept);
  }

  /** A block is released once what it describes is junk, but for itself. True where one was. */
  async #releaseLastBlock(): Promise<boolean> {
    const { recycler } = this.#context;
    const { map, image, clusterBytes } = recycler.volume;
    return recycler.metadata.run(async () => {
      const { refcounts } = image;
      const index = refcounts.present.at(-1)!;
      if (index === 0) return false;
      const block = refcounts.blocks[index]! / clusterBytes;
      const first = index * refcounts.perBlock;
      // The pool will want what it describes.
      if (this.#wantedClusters - 1 > first) return false;
      for (let cluster = first; cluster < map.clusterCount; cluster++)
        if (cluster !== block && !map.is(cluster, State.junk)) return false;
      // A failure of these leaves the table as it is.
      await recycler.writeCounts();
      try {
        const goal = {
          ...goalFor(recycler.volume, 0),
          blockCount: index,
          tableClusters: refcounts.tableClusters,
        };
        return (await releaseUnneeded(recycler, goal)) > 0;
      } catch (error) {
        // Whether the entry is on disk is not known: no count may be written any more.
        throw recycler.fail(error);
      }
    });
  }
}
