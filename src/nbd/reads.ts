/** READ: in pieces, each sent when it is there; where the reply must be in one part, all of them when all are. */
import { PIECE_BYTES, roomFor } from './buffer-pool.js';
import type { Send } from './output.js';
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

/** Of a reply in one part: what is sent of `buffer` ends at `end`, and its data begin at `at`. */
interface Piece {
  buffer: Buffer;
  offset: number;
  at: number;
  end: number;
}

export class Reads {
  readonly #context: WorkContext;
  readonly #replies: Replies;

  constructor(context: WorkContext, replies: Replies) {
    this.#context = context;
    this.#replies = replies;
  }

  /** Resolves when all of it has its room. */
  async accept(request: Request): Promise<void> {
    const { share, work, terms, traffic, isCut } = this.#context;
    const { lengthBytes, flags } = request;
    traffic.bytesRead += lengthBytes;
    if (lengthBytes === 0) return this.#replies.done(request);
    if (!terms.isStructured || (flags & CommandFlag.dontFragment) !== 0) return this.#acceptWhole(request);
    const reply = new PiecedReply(Math.ceil(lengthBytes / PIECE_BYTES));
    for (let at = 0; at < lengthBytes; at += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, lengthBytes - at);
      await this.#takeRoom(length);
      // Nobody takes what is left of it.
      if (isCut()) return share.give(roomFor(length));
      work.begin(this.#readPiece(request, reply, request.offset + at, length));
    }
  }

  /**
   * In one part, of which the beginning says that all of it is well: so all is read first where there is room for it
   * without waiting. Else it has to do with what every client has.
   */
  async #acceptWhole(request: Request): Promise<void> {
    const { share, work } = this.#context;
    const { lengthBytes } = request;
    await this.#takeRoom(Math.min(lengthBytes, PIECE_BYTES));
    let held = PIECE_BYTES;
    while (held < lengthBytes && share.tryTake(roomFor(Math.min(PIECE_BYTES, lengthBytes - held))))
      held += PIECE_BYTES;
    if (held >= lengthBytes) return work.begin(this.#readWhole(request));
    share.give(held - PIECE_BYTES);
    work.begin(this.#stream(request));
  }

  async #takeRoom(lengthBytes: number): Promise<void> {
    const { share } = this.#context;
    const room = roomFor(lengthBytes);
    if (!share.tryTake(room)) await share.take(room);
  }

  async #readPiece(request: Request, reply: PiecedReply, offset: number, length: number): Promise<void> {
    const { disk, output, pool } = this.#context;
    const buffer = pool.take(length);
    let isLast: boolean;
    try {
      const frame = await readChunks(disk, buffer, request, offset, length);
      isLast = reply.finishPiece();
      if (isLast && reply.failure === undefined) markDone(buffer, frame.lastChunk);
      output.send(buffer.subarray(0, frame.lengthBytes), () => giveBack(this.#context, buffer));
    } catch (error) {
      giveBack(this.#context, buffer);
      reply.fail(error);
      isLast = reply.finishPiece();
    }
    if (isLast && reply.failure !== undefined) this.#replies.fail(request, reply.failure.error);
  }

  async #readWhole(request: Request): Promise<void> {
    const { disk, output, pool, terms } = this.#context;
    const { offset, lengthBytes } = request;
    const pieces: Piece[] = [];
    for (let done = 0; done < lengthBytes; done += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, lengthBytes - done);
      const buffer = pool.take(length);
      const at = done === 0 ? this.#writeHead(buffer, request) : 0;
      pieces.push({ buffer, offset: offset + done, at, end: at + length });
    }
    const results = await Promise.allSettled(
      pieces.map(({ buffer, offset, at, end }) => disk.read(buffer.subarray(at, end), offset)),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) {
      for (const { buffer } of pieces) giveBack(this.#context, buffer);
      this.#replies.fail(request, failed.reason);
      return;
    }
    if (terms.isStructured) markDone(pieces[0]!.buffer, 0);
    for (const { buffer, end } of pieces)
      output.send(buffer.subarray(0, end), () => giveBack(this.#context, buffer));
  }

  /**
   * With one buffer, used again and again: meanwhile the output is its own, and to wait for room that other replies hold
   * would be for ever.
   */
  async #stream(request: Request): Promise<void> {
    const { output, pool } = this.#context;
    const buffer = pool.take(PIECE_BYTES);
    try {
      await output.exclusively((send) => this.#streamPieces(request, buffer, send));
    } finally {
      giveBack(this.#context, buffer);
    }
  }

  async #streamPieces(request: Request, buffer: Buffer, send: Send): Promise<void> {
    const { disk, terms, onFailure, cut } = this.#context;
    const end = request.offset + request.lengthBytes;
    let failure: { error: unknown } | null = null;
    for (let at = request.offset; at < end; at += PIECE_BYTES) {
      const piece = buffer.subarray(0, Math.min(PIECE_BYTES, end - at));
      try {
        if (failure === null) await disk.read(piece, at);
      } catch (error) {
        failure = { error };
        onFailure(error);
        if (at === request.offset) return send(this.#replies.failureOf(request, error));
        // What its head has promised does not come, and there is no other way to say it.
        if (!terms.isStructured) return cut();
        piece.fill(0);
      }
      if (at === request.offset) {
        const head = Buffer.allocUnsafe(DATA_HEAD_BYTES);
        send(head.subarray(0, this.#writeHead(head, request)));
      }
      await new Promise<void>((resolve) => send(piece, resolve));
    }
    if (failure !== null) send(this.#replies.failureOf(request, failure.error));
    else if (terms.isStructured) send(doneChunk(request));
  }

  /** Of a reply whose data follow in one part. */
  #writeHead(buffer: Buffer, request: Request): number {
    return this.#context.terms.isStructured
      ? writeDataHead(buffer, 0, request, request)
      : writeSimpleHead(buffer, 0, request, 0);
  }
}
