/** The half of a disk that writes. */
import { completeTail } from '../recycler/growth.js';
import type { Recycler } from '../recycler/recycler.js';
import { Background } from './background/background.js';
import type { BackgroundPlan } from './background/options.js';
import { type DiskStatus, statusOf } from './background/status.js';
import { Throttle } from './background/throttle.js';
import type { Allocator } from './allocator.js';
import { Flusher } from './flusher.js';
import { Ledger } from './ledger.js';
import { OwnTables } from './own-table.js';
import { Placer } from './placer.js';
import type { Qcow2Source } from './qcow2-source.js';
import type { Tables } from './tables.js';
import { WriteContext } from './write-context.js';
import { Writer } from './writer.js';
import { Zeroer } from './zeroer.js';

export class Changes {
  readonly recycler: Recycler;
  readonly #background: Background;
  readonly #throttle: Throttle;
  readonly #allocator: Allocator;
  readonly #tables: Tables;
  readonly #ledger: Ledger;
  readonly #writer: Writer;
  readonly #zeroer: Zeroer;
  readonly #flusher: Flusher;
  readonly #relieve: () => Promise<void>;
  /** Something was asked to change: else the file stays byte-identical. */
  #hasBegun = false;
  #beginning: Promise<void> | null = null;

  /** `requests`: how many of clients are under way. */
  constructor(
    recycler: Recycler,
    tables: Tables,
    source: Qcow2Source,
    allocator: Allocator,
    plan: BackgroundPlan,
    requests: () => number,
  ) {
    this.recycler = recycler;
    this.#allocator = allocator;
    this.#tables = tables;
    this.#ledger = new Ledger(recycler);
    const context = new WriteContext(recycler, tables, source, this.#ledger, allocator);
    const ownTables = new OwnTables(context);
    this.#writer = new Writer(context, new Placer(context, ownTables));
    this.#zeroer = new Zeroer(context, ownTables, this.#writer);
    this.#flusher = new Flusher(context);
    const { keepErased, roundBytes, clock, compactAfter } = plan;
    const throttle = new Throttle(plan.bytesPerSecond, clock, requests);
    this.#throttle = throttle;
    this.#background = new Background({
      context: { recycler, tables, allocator, flusher: this.#flusher, clock, keepErased, roundBytes },
      compactAfter,
      throttle,
      begin: () => this.#begin(),
    });
    this.#background.start();
    this.#relieve = context.relieve = async () => {
      if (this.#isFull) await this.#flusher.flush();
    };
  }

  get failure(): Error | null {
    return this.recycler.failure;
  }

  /** After a failed barrier nothing that is written may count as durable: so nothing is written (C51). */
  async #begin(): Promise<void> {
    if (this.failure !== null) throw this.failure;
    if (this.#hasBegun) return;
    this.#beginning ??= completeTail(this.recycler).finally(() => (this.#beginning = null));
    await this.#beginning;
    this.#hasBegun = true;
  }

  /** A client asks for something: the work in the background holds back. */
  note(): void {
    this.#throttle.note();
  }

  get status(): DiskStatus {
    return statusOf(this.recycler, this.#background);
  }

  /** The work in the background begins nothing new, and waits for nobody. */
  stopBackground(): void {
    // `finish` hears of a failure.
    this.#background.stop().catch(() => undefined);
  }

  compactNow(): Promise<number> {
    return this.#background.compactNow();
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    if (!this.#hasBegun || this.failure !== null) await this.#begin();
    await this.#writer.write(source, offset);
    await this.#relieve();
  }

  async zero(offset: number, lengthBytes: number, mayUnmap: boolean): Promise<void> {
    if (!this.#hasBegun || this.failure !== null) await this.#begin();
    await this.#zeroer.zero(offset, lengthBytes, mayUnmap);
    await this.#relieve();
  }

  async flush(): Promise<void> {
    if (this.failure !== null) throw this.failure;
    if (this.#hasBegun) await this.#flusher.flush();
  }

  /** What is to be written is kept in memory: not without bounds. */
  get #isFull(): boolean {
    return this.#tables.isFullOfChanges || this.#ledger.isFull;
  }

  /** Leaves an image without leaks, and without unused clusters at its end. */
  async finish(): Promise<void> {
    await this.#background.stop();
    if (this.failure !== null) throw this.failure;
    if (!this.#hasBegun) return;
    await this.flush();
    this.#allocator.dissolve();
    // Counts first: those beyond the end of a shorter file would count for whatever is there later.
    await this.recycler.writeCounts();
    await this.recycler.flush();
    if (await this.recycler.truncate()) await this.recycler.flush();
  }
}
