/** READ: in pieces, each sent when it is there; where the reply must be in one part, one piece after the other. */
import { PIECE_BYTES } from './buffer-pool.js';
import { CommandFlag } from './protocol.js';
import { readChunks } from './read-pieces.js';
import { PiecedReply, type Replies } from './replies.js';
import {
  DATA_HEAD_BYTES,
  type Request,
  doneChunk,
  markDone,
  writeDataHead,
  writeSimpleHead,
} from './transmission-codec.js';
import { type WorkContext, giveBack } from './work-context.js';

export class Reads {
  readonly #context: WorkContext;
  readonly #replies: Replies;

  constructor(context: WorkContext, replies: Replies) {
    this.#context = context;
    this.#replies = replies;
  }

  /** Resolves when all of it has its room. */
  async accept(request: Request): Promise<void> {
    const { share, work, terms, traffic } = this.#context;
    const { lengthBytes, flags } = request;
    traffic.bytesRead += lengthBytes;
    if (lengthBytes === 0) return this.#replies.done(request);
    if (!terms.isStructured || (flags & CommandFlag.dontFragment) !== 0) {
      const room = Math.min(lengthBytes, PIECE_BYTES);
      if (!share.tryTake(room)) await share.take(room);
      work.begin(lengthBytes <= PIECE_BYTES ? this.#readWhole(request) : this.#stream(request));
      return;
    }
    const reply = new PiecedReply(Math.ceil(lengthBytes / PIECE_BYTES));
    for (let at = 0; at < lengthBytes; at += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, lengthBytes - at);
      if (!share.tryTake(length)) await share.take(length);
      work.begin(this.#readPiece(request, reply, request.offset + at, length));
    }
  }

  async #readPiece(request: Request, reply: PiecedReply, offset: number, length: number): Promise<void> {
    const { disk, output, pool } = this.#context;
    const buffer = pool.take(length);
    let isLast: boolean;
    try {
      const frame = await readChunks(disk, buffer, request, offset, length);
      isLast = reply.finishPiece();
      if (isLast && reply.failure === undefined) markDone(buffer, frame.lastChunk);
      output.send(buffer.subarray(0, frame.lengthBytes), () => giveBack(this.#context, buffer, length));
    } catch (error) {
      giveBack(this.#context, buffer, length);
      reply.fail(error);
      isLast = reply.finishPiece();
    }
    if (isLast && reply.failure !== undefined) this.#replies.fail(request, reply.failure.error);
  }

  async #readWhole(request: Request): Promise<void> {
    const { disk, output, pool, terms } = this.#context;
    const { offset, lengthBytes } = request;
    const buffer = pool.take(lengthBytes);
    const at = this.#writeHead(buffer, request);
    try {
      await disk.read(buffer.subarray(at, at + lengthBytes), offset);
    } catch (error) {
      giveBack(this.#context, buffer, lengthBytes);
      this.#replies.fail(request, error);
      return;
    }
    if (terms.isStructured) markDone(buffer, 0);
    output.send(buffer.subarray(0, at + lengthBytes), () => giveBack(this.#context, buffer, lengthBytes));
  }

  /**
   * With one buffer, used again and again: meanwhile the output is its own, and to wait for room that other replies hold
   * would be for ever.
   */
  async #stream(request: Request): Promise<void> {
    const { disk, output, pool, terms, onFailure, cut } = this.#context;
    const buffer = pool.take(PIECE_BYTES);
    try {
      const end = request.offset + request.lengthBytes;
      await output.exclusively(async (send) => {
        for (let at = request.offset; at < end; at += PIECE_BYTES) {
          const piece = buffer.subarray(0, Math.min(PIECE_BYTES, end - at));
          await disk.read(piece, at);
          if (at === request.offset) {
            const head = Buffer.allocUnsafe(DATA_HEAD_BYTES);
            send(head.subarray(0, this.#writeHead(head, request)));
          }
          await new Promise<void>((resolve) => send(piece, resolve));
        }
        if (terms.isStructured) send(doneChunk(request));
      });
    } catch (error) {
      // Its head may have promised what is not there.
      onFailure(error);
      cut();
    } finally {
      giveBack(this.#context, buffer, PIECE_BYTES);
    }
  }

  /** Of a reply whose data follow in one part. */
  #writeHead(buffer: Buffer, request: Request): number {
    return this.#context.terms.isStructured
      ? writeDataHead(buffer, 0, request, request)
      : writeSimpleHead(buffer, 0, request, 0);
  }
}
