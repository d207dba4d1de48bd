/**
 * The barrier of the disk: what clients have written is durable, and so are the entries that lead to it. Data first where
 * an entry must not be there without them, then the entries, then what they let go of is free (design 4).
 */
import { inParallel } from '../recycler/in-parallel.js';
import { Access, Mutex } from '../recycler/locks.js';
import type { TableWrites } from './tables.js';
import type { WriteContext } from './write-context.js';

/** Tables that are written at a time. */
const WRITERS = 8;

export class Flusher {
  readonly #context: WriteContext;
  readonly #mutex = new Mutex();
  /** The flush that is to begin next: all that come before it does share it. */
  #next: Promise<void> | null = null;

  constructor(context: WriteContext) {
    this.#context = context;
  }

  /** All that was written before the call is durable afterwards. */
  flush(): Promise<void> {
    this.#next ??= this.#mutex.run(() => {
      this.#next = null;
      return this.#flush();
    });
    return this.#next;
  }

  /** Runs `work` while no flush is under way, so that no copy of a table is about to be written. */
  between<T>(work: () => Promise<T>): Promise<T> {
    return this.#mutex.run(work);
  }

  async #flush(): Promise<void> {
    const { tables, ledger, recycler } = this.#context;
    if (recycler.failure !== null) throw recycler.failure;
    // Copies, in one turn: what changes from here on belongs to the next flush, with its own order.
    const writes = tables.takeDirty();
    const released = ledger.take();
    try {
      if (released.isOrdered) await recycler.flush();
      await inParallel(writes, WRITERS, 0, (write) => this.#write(write));
      await recycler.writeCounts();
    } catch (error) {
      // Some are on disk and some not, which is valid; the next flush writes them all.
      tables.putBack(writes);
      ledger.putBack(released);
      throw error;
    }
    tables.written(writes);
    recycler.release(released.lowered, released.gone);
    await recycler.flush();
  }

  async #write({ table, spans }: TableWrites): Promise<void> {
    const { locks, recycler, geometry } = this.#context;
    const { clusterBytes } = geometry;
    const clusters = Math.ceil(table.bytes.length / clusterBytes);
    const release = await locks.lock(table.cluster, clusters, Access.changing);
    try {
      for (const { at, bytes } of spans) {
        // Of a copy of it that is under way the sectors are not part.
        recycler.tableChanged(table.cluster + Math.floor(at / clusterBytes));
        await recycler.volume.device.write(bytes, table.cluster * clusterBytes + at);
      }
    } finally {
      release();
    }
  }
}
