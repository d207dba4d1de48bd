/** The requests that carry no data: FLUSH, TRIM, WRITE_ZEROES, CACHE, BLOCK_STATUS. */
import { extentsOf } from './block-status.js';
import { PIECE_BYTES } from './buffer-pool.js';
import { ALLOCATION_ID, Command, CommandFlag, NbdError } from './protocol.js';
import type { Replies } from './replies.js';
import { type Request, blockStatusChunk } from './transmission-codec.js';
import { type WorkContext, giveBack } from './work-context.js';

export class Simples {
  readonly #context: WorkContext;
  readonly #replies: Replies;

  constructor(context: WorkContext, replies: Replies) {
    this.#context = context;
    this.#replies = replies;
  }

  accept(request: Request): void {
    this.#context.work.begin(this.#answer(request));
  }

  async #answer(request: Request): Promise<void> {
    try {
      if (request.command === Command.blockStatus) await this.#blockStatus(request);
      else if (isSlowZeroing(request)) this.#replies.refuse(request, NbdError.ENOTSUP);
      else {
        await this.#change(request);
        this.#replies.done(request);
      }
    } catch (error) {
      this.#replies.fail(request, error);
    }
  }

  async #change({ command, flags, offset, lengthBytes }: Request): Promise<void> {
    const { disk } = this.#context;
    if (command === Command.cache) return this.#cache(offset, lengthBytes);
    if (command === Command.flush) return disk.flush();
    if (command === Command.trim) await disk.discard(offset, lengthBytes);
    else await disk.writeZeroes(offset, lengthBytes, { mayUnmap: (flags & CommandFlag.noHole) === 0 });
    if ((flags & CommandFlag.fua) !== 0) await disk.flush();
  }

  /** Brings the stretch, and the tables that lead there, into the memory of the host. */
  async #cache(offset: number, lengthBytes: number): Promise<void> {
    const { disk, share, pool } = this.#context;
    const room = Math.min(lengthBytes, PIECE_BYTES);
    if (!share.tryTake(room)) return;
    const buffer = pool.take(room);
    try {
      for (let at = 0; at < lengthBytes; at += PIECE_BYTES) {
        await disk.read(buffer.subarray(0, Math.min(PIECE_BYTES, lengthBytes - at)), offset + at);
      }
    } finally {
      giveBack(this.#context, buffer, room);
    }
  }

  async #blockStatus(request: Request): Promise<void> {
    const { disk, output } = this.#context;
    const most = (request.flags & CommandFlag.reqOne) !== 0 ? 1 : undefined;
    const extents = await extentsOf(disk, request.offset, request.lengthBytes, most);
    output.send(blockStatusChunk(request, ALLOCATION_ID, extents));
  }
}

/** Clusters that have to keep their room may need zeroes written; without that an entry says it. */
function isSlowZeroing({ command, flags }: Request): boolean {
  const both = CommandFlag.fastZero | CommandFlag.noHole;
  return command === Command.writeZeroes && (flags & both) === both;
}
