/** Replies without data, in the way that was agreed on. */
import { messageOf, nbdErrorOf } from './errors.js';
import { type Cookie, doneChunk, errorChunk, simpleReply } from './transmission-codec.js';
import type { WorkContext } from './work-context.js';

export class Replies {
  readonly #context: WorkContext;

  constructor(context: WorkContext) {
    this.#context = context;
  }

  done(cookie: Cookie): void {
    const { output, terms } = this.#context;
    output.send(terms.isStructured ? doneChunk(cookie) : simpleReply(cookie, 0));
  }

  /** The client asked for what it may not, or what is not there. */
  refuse(cookie: Cookie, error: number, message = ''): void {
    this.#context.output.send(this.#refusal(cookie, error, message));
  }

  /** The disk failed. */
  fail(cookie: Cookie, error: unknown): void {
    this.#context.onFailure(error);
    this.#context.output.send(this.failureOf(cookie, error));
  }

  failureOf(cookie: Cookie, error: unknown): Buffer {
    return this.#refusal(cookie, nbdErrorOf(error), messageOf(error));
  }

  #refusal(cookie: Cookie, error: number, message: string): Buffer {
    return this.#context.terms.isStructured ? errorChunk(cookie, error, message) : simpleReply(cookie, error);
  }
}

/** A request that is worked on in pieces: the last of them answers. */
export class PiecedReply {
  #left: number;
  failure: { error: unknown } | undefined;

  constructor(pieces: number) {
    this.#left = pieces;
  }

  /** True for the last. */
  finishPiece(): boolean {
    return --this.#left === 0;
  }

  /** The first failure is the one that is told. */
  fail(error: unknown): void {
    this.failure ??= { error };
  }
}
