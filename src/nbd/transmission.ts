/**
 * The requests of one client. They are read one after the other and worked on at the same time; each is answered when it
 * is done. What may be under way is bounded, by number and by bytes: beyond it the socket is not read.
 */
import { ProtocolError } from './errors.js';
import { type Input, Disconnected } from './input.js';
import { Command, NbdError, REQUEST_BYTES } from './protocol.js';
import { Reads } from './reads.js';
import { refusalOf } from './refusal.js';
import { Replies } from './replies.js';
import { Simples } from './simples.js';
import { type Request, readRequest } from './transmission-codec.js';
import type { WorkContext } from './work-context.js';
import { Writes } from './writes.js';

/** Under way for one client at a time. */
const MOST_AT_WORK = 128;

export class Transmission {
  readonly #context: WorkContext;
  readonly #input: Input;
  readonly #replies: Replies;
  readonly #reads: Reads;
  readonly #writes: Writes;
  readonly #simples: Simples;
  #isStopping = false;
  #isBetweenRequests = true;

  constructor(context: WorkContext, input: Input) {
    this.#context = context;
    this.#input = input;
    this.#replies = new Replies(context);
    this.#reads = new Reads(context, this.#replies);
    this.#writes = new Writes(context, this.#replies, input);
    this.#simples = new Simples(context, this.#replies);
  }

  /**
   * Until the client wants to go, has gone, or `stop`; all that was begun is answered then. Throws ProtocolError where
   * what came is no request.
   */
  async run(): Promise<void> {
    try {
      while (!(this.#isStopping && this.#input.waitingBytes < REQUEST_BYTES)) {
        this.#isBetweenRequests = true;
        const header = this.#input.tryTake(REQUEST_BYTES) ?? (await this.#input.take(REQUEST_BYTES));
        this.#isBetweenRequests = false;
        const request = readRequest(header);
        if (request === null) throw new ProtocolError('no request where one was due');
        if (request.command === Command.disconnect) return;
        await this.#accept(request);
      }
    } catch (error) {
      if (!(error instanceof Disconnected)) throw error;
    } finally {
      await this.#context.work.atMost(0);
      await this.#context.output.drained();
    }
  }

  /** What is under way is finished, what comes later refused; a client that waits for nothing is let go. */
  stop(): void {
    this.#isStopping = true;
    if (this.#isBetweenRequests && this.#input.waitingBytes < REQUEST_BYTES) this.#input.end();
  }

  async #accept(request: Request): Promise<void> {
    const { work, disk, terms, traffic } = this.#context;
    if (work.count >= MOST_AT_WORK) await work.atMost(MOST_AT_WORK - 1);
    const refusal = this.#isStopping ? NbdError.ESHUTDOWN : refusalOf(request, disk, terms);
    if (refusal !== 0) {
      if (request.command === Command.write) await this.#input.skip(request.lengthBytes);
      this.#replies.refuse(request, refusal);
      return;
    }
    traffic.requests++;
    if (request.command === Command.read) await this.#reads.accept(request);
    else if (request.command === Command.write) await this.#writes.accept(request);
    else this.#simples.accept(request);
  }
}
