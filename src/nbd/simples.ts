/** The requests that carry no data: FLUSH, TRIM, WRITE_ZEROES, CACHE, BLOCK_STATUS. */
import { Pace } from '../pace.js';
import { extentsOf } from './block-status.js';
import { PIECE_BYTES, roomFor } from './buffer-pool.js';
import { ALLOCATION_ID, Command, CommandFlag, NbdError } from './protocol.js';
import type { Replies } from './replies.js';
import { type Request, blockStatusChunk } from './transmission-codec.js';
import { type WorkContext, giveBack } from './work-context.js';

/** Stretches that CACHE looks at in advance. */
const CACHE_STRETCHES = 64;

export class Simples {
  readonly #context: WorkContext;
  readonly #replies: Replies;
  /** The last of the requests that look at tables only: one at a time, so that a client's many take the turn of one. */
  #looking: Promise<void> = Promise.resolve();
  readonly #pace = new Pace();

  constructor(context: WorkContext, replies: Replies) {
    this.#context = context;
    this.#replies = replies;
  }

  accept(request: Request): void {
    this.#context.work.begin(this.#answer(request));
  }

  async #answer(request: Request): Promise<void> {
    try {
      if (request.command === Command.blockStatus) await this.#oneByOne(() => this.#blockStatus(request));
      else if (this.#refusesSlowZeroes(request)) this.#replies.refuse(request, NbdError.ENOTSUP);
      else {
        await this.#carryOut(request);
        this.#replies.done(request);
      }
    } catch (error) {
      this.#replies.fail(request, error);
    }
  }

  /** Clusters that have to keep their room may need zeroes written; without that an entry says it, where there are such. */
  #refusesSlowZeroes({ command, flags }: Request): boolean {
    if (command !== Command.writeZeroes || (flags & CommandFlag.fastZero) === 0) return false;
    return (flags & CommandFlag.noHole) !== 0 || !this.#context.disk.hasFastZeroes;
  }

  async #carryOut({ command, flags, offset, lengthBytes }: Request): Promise<void> {
    const { disk, traffic } = this.#context;
    if (command === Command.cache) return this.#oneByOne(() => this.#cache(offset, lengthBytes));
    if (command === Command.flush) return disk.flush();
    try {
      if (command === Command.trim) await disk.discard(offset, lengthBytes);
      else await disk.writeZeroes(offset, lengthBytes, { mayUnmap: (flags & CommandFlag.noHole) === 0 });
    } finally {
      traffic.changes++;
    }
    if ((flags & CommandFlag.fua) !== 0) await disk.flush();
  }

  #oneByOne(work: () => Promise<void>): Promise<void> {
    const result = this.#looking.then(async () => {
      if (this.#pace.isOver) await this.#pace.giveWay();
      await work();
    });
    this.#looking = result.catch(() => undefined);
    return result;
  }

  /** Brings the stretch, and the tables that lead there, into the memory of the host. */
  async #cache(offset: number, lengthBytes: number): Promise<void> {
    const { disk, share, pool, isCut } = this.#context;
    const room = roomFor(Math.min(lengthBytes, PIECE_BYTES));
    if (!share.tryTake(room)) return;
    const buffer = pool.take(room);
    const end = offset + lengthBytes;
    try {
      for (let at = offset; at < end && !isCut();) {
        const stretches = await disk.blockStatus(at, end - at, CACHE_STRETCHES);
        for (const { isZero, ...stretch } of stretches) {
          if (!isZero) await this.#readAll(buffer.subarray(0, room), stretch);
          at += stretch.lengthBytes;
        }
      }
    } finally {
      giveBack(this.#context, buffer);
    }
  }

  async #readAll(
    buffer: Uint8Array,
    { offset, lengthBytes }: { offset: number; lengthBytes: number },
  ): Promise<void> {
    const { disk, isCut } = this.#context;
    const end = offset + lengthBytes;
    for (let at = offset; at < end && !isCut(); at += buffer.length)
      await disk.read(buffer.subarray(0, Math.min(buffer.length, end - at)), at);
  }

  async #blockStatus(request: Request): Promise<void> {
    const { disk, output, isCut } = this.#context;
    if (output.isFull) await output.room();
    const mostExtents = (request.flags & CommandFlag.reqOne) !== 0 ? 1 : undefined;
    const extents = await extentsOf(disk, request.offset, request.lengthBytes, { mostExtents, isCut });
    if (extents !== null) output.send(blockStatusChunk(request, ALLOCATION_ID, extents));
  }
}
