/** One compaction beside clients: as a whole, or a round at a time with other work in between. */
import type { BackgroundContext } from './context.js';
import { FileEnd } from './file-end.js';
import { type Copied, LiveRounds } from './live-rounds.js';

/** Times that a compaction goes on after the end of the file has left holes. */
const MOST_ENDS = 64;

export class LiveCompaction {
  readonly #context: BackgroundContext;
  readonly #isStopping: () => boolean;
  readonly #rounds: LiveRounds;
  readonly #end: FileEnd;
  /** It has begun, and goes on until it finds nothing to move. */
  #isUnderWay = false;

  /** `mayWrite`: waits for clients to leave room for so many bytes; false: the work is to end. */
  constructor(
    context: BackgroundContext,
    mayWrite: (bytes: number) => Promise<boolean>,
    isStopping: () => boolean,
  ) {
    this.#context = context;
    this.#isStopping = isStopping;
    this.#rounds = new LiveRounds(context, mayWrite);
    this.#end = new FileEnd(context);
  }

  get isUnderWay(): boolean {
    return this.#isUnderWay;
  }

  get bytesReclaimed(): number {
    return this.#end.bytesReclaimed;
  }

  /** Bytes of the file before which nothing needed to move, as far as the last compaction knows. */
  get fixedBytes(): number {
    return this.#rounds.fixedBytes;
  }

  /** Until nothing is left to move, or clients change all that is to. */
  async toFixpoint(): Promise<void> {
    const { recycler, flusher } = this.#context;
    await this.#finishRound();
    // What clients have let go of is junk from here on.
    await flusher.flush();
    await this.#prepare();
    // What a refcount block leaves is a hole, for a few more moves; clients could make new ones for ever.
    for (let ends = 0; ends < MOST_ENDS; ends++) {
      while (!this.#isStopping() && (await this.#rounds.copy()) === 'copied') {
        await this.#finishRound();
        await this.#end.shorten();
      }
      if (this.#isStopping()) return;
      this.#rounds.lookAnew();
      if (!(await this.#end.shorten())) break;
    }
    this.#isUnderWay = false;
    await recycler.flush();
  }

  /** Copies one round; barrier and references follow in their turns (C55). Answers why it is over, or null. */
  async step(): Promise<Exclude<Copied, 'copied'> | null> {
    if (!this.#isUnderWay) await this.#prepare();
    this.#isUnderWay = true;
    const copied = await this.#rounds.copy();
    const leftHoles = await this.#end.shorten();
    if (copied === 'copied') return null;
    this.#rounds.lookAnew();
    if (copied === 'nothing' && leftHoles) return null;
    this.#isUnderWay = false;
    return copied;
  }

  updateReferences(): Promise<void> {
    return this.#rounds.updateReferences();
  }

  async shorten(): Promise<void> {
    await this.#end.shorten();
  }

  /** What is under way is not gone on with. Not beside a copy: what it writes to would be free at once. */
  giveUp(): void {
    if (this.#context.recycler.failure === null) this.#rounds.forget();
    this.#isUnderWay = false;
  }

  /** Barrier, references, barrier. */
  async #finishRound(): Promise<void> {
    const { recycler } = this.#context;
    if (!recycler.unfinishedMoves) return;
    await recycler.flush();
    await this.#rounds.updateReferences();
    await recycler.flush();
  }

  /** What of the pool nobody asked for is in the way, and so is a refcount table that has grown at the end of the file. */
  async #prepare(): Promise<void> {
    const { allocator, keepErased } = this.#context;
    this.#rounds.lookAnew();
    await allocator.shrink(keepErased);
    await this.#end.moveTable();
  }
}
