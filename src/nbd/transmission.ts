/**
 * The requests of one client. They are read one after the other and worked on at the same time; each is answered when it
 * is done. What may be under way is bounded, by number and by bytes, and so are replies that the client does not take:
 * beyond it the socket is not read.
 */
import { Pace } from '../pace.js';
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

/** After the stop clients hear of it by refusals; those that go on are no longer listened to. */
const REFUSE_MS = 1000;
/** A client that asks for nothing through two of these waits for nothing. */
const QUIET_MS = 20;
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
  /** Requests so far, refused ones too. */
  #accepted = 0;
  #hasFinished = false;
  #isLetGo = false;
  #quietTimer: NodeJS.Timeout | undefined;

  constructor(context: WorkContext, input: Input) {
    this.#context = context;
    this.#input = input;
    this.#replies = new Replies(context);
    this.#reads = new Reads(context, this.#replies);
    this.#writes = new Writes(context, this.#replies, input);
    this.#simples = new Simples(context, this.#replies);
  }

  /**
   * Until the client wants to go, has gone, or is let go after `stop`; all that was begun is answered then. Throws
   * ProtocolError where what came is no request.
   */
  async run(): Promise<void> {
    const { output } = this.#context;
    const pace = new Pace();
    try {
      while (!this.#isLetGo) {
        this.#isBetweenRequests = true;
        if (output.isFull) await output.room();
        if (pace.isOver) await pace.giveWay();
        const header = this.#input.tryTake(REQUEST_BYTES) ?? (await this.#nextHeader(pace));
        this.#isBetweenRequests = false;
        const request = readRequest(header);
        if (request === null) throw new ProtocolError('no request where one was due');
        if (request.command === Command.disconnect) return;
        await this.#accept(request);
      }
    } catch (error) {
      if (error instanceof Disconnected) return;
      // Whoever does that may take no answers either.
      this.#context.cut();
      throw error;
    } finally {
      await this.#finish();
    }
  }

  /** The client asks for nothing more: all that was begun is answered, if it is taken. */
  async #finish(): Promise<void> {
    const { work, output, cut, farewellMs } = this.#context;
    this.#hasFinished = true;
    clearInterval(this.#quietTimer);
    const timer = setTimeout(cut, farewellMs);
    await work.atMost(0);
    await output.drained();
    clearTimeout(timer);
  }

  /** What is under way is finished, what comes later refused; a client that waits for nothing, and asks for nothing, is let go. */
  stop(): void {
    this.#isStopping = true;
    if (this.#hasFinished) return;
    const until = performance.now() + REFUSE_MS;
    let acceptedBefore = -1;
    this.#quietTimer = setInterval(() => {
      const isIdle =
        this.#isBetweenRequests && this.#input.waitingBytes === 0 && this.#context.work.count === 0;
      if ((isIdle && this.#accepted === acceptedBefore) || performance.now() > until) this.#letGo();
      acceptedBefore = isIdle ? this.#accepted : -1;
    }, QUIET_MS);
  }

  #letGo(): void {
    this.#isLetGo = true;
    if (this.#isBetweenRequests) this.#input.end();
  }

  async #nextHeader(pace: Pace): Promise<Buffer> {
    const header = await this.#input.take(REQUEST_BYTES);
    pace.rested();
    return header;
  }

  async #accept(request: Request): Promise<void> {
    const { work, disk, terms, traffic } = this.#context;
    this.#accepted++;
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
