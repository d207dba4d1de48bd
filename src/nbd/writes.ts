/** WRITE: piece by piece as the data come, so that of a client that stops amidst them no more than a piece is held. */
import { PIECE_BYTES, roomFor } from './buffer-pool.js';
import type { Input } from './input.js';
import { CommandFlag } from './protocol.js';
import { PiecedReply, type Replies } from './replies.js';
import type { Request } from './transmission-codec.js';
import { type WorkContext, giveBack } from './work-context.js';

export class Writes {
  readonly #context: WorkContext;
  readonly #replies: Replies;
  readonly #input: Input;

  constructor(context: WorkContext, replies: Replies, input: Input) {
    this.#context = context;
    this.#replies = replies;
    this.#input = input;
  }

  /** Resolves when all data have come. Throws Disconnected; pieces that were whole are written then. */
  async accept(request: Request): Promise<void> {
    const { share, pool, work } = this.#context;
    const { lengthBytes } = request;
    if (lengthBytes === 0) return this.#replies.done(request);
    const reply = new PiecedReply(Math.ceil(lengthBytes / PIECE_BYTES));
    for (let at = 0; at < lengthBytes; at += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, lengthBytes - at);
      const room = roomFor(length);
      if (!share.tryTake(room)) await share.take(room);
      const buffer = pool.take(length);
      const bytes = buffer.subarray(0, length);
      try {
        if (!this.#input.tryTakeInto(bytes)) await this.#input.takeInto(bytes);
      } catch (error) {
        giveBack(this.#context, buffer);
        throw error;
      }
      work.begin(this.#writePiece(request, reply, request.offset + at, { buffer, bytes }));
    }
  }

  async #writePiece(
    request: Request,
    reply: PiecedReply,
    offset: number,
    { buffer, bytes }: { buffer: Buffer; bytes: Buffer },
  ): Promise<void> {
    const { disk, traffic } = this.#context;
    let isLast: boolean;
    try {
      await disk.write(bytes, offset);
      traffic.bytesWritten += bytes.length;
    } catch (error) {
      reply.fail(error);
    } finally {
      traffic.changes++;
      giveBack(this.#context, buffer);
      isLast = reply.finishPiece();
    }
    if (!isLast) return;
    if (reply.failure === undefined && (request.flags & CommandFlag.fua) !== 0) {
      try {
        await disk.flush();
      } catch (error) {
        reply.fail(error);
      }
    }
    if (reply.failure === undefined) this.#replies.done(request);
    else this.#replies.fail(request, reply.failure.error);
  }
}
