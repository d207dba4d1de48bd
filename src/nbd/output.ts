/** What a client is sent: replies of one turn of the event loop leave in one call of the host. */
import type { Writable } from 'node:stream';

type Send = (bytes: Uint8Array, sent?: () => void) => void;

export class Output {
  readonly #stream: Writable;
  #isCorked = false;
  /** Bytes that the kernel has not taken yet are counted by these. */
  #unsent = 0;
  #onSent: (() => void)[] = [];
  /** What waits while one reply has the stream for itself; null where none has. */
  #queue: [Uint8Array, (() => void) | undefined][] | null = null;
  #turn: Promise<void> = Promise.resolve();

  constructor(stream: Writable) {
    this.#stream = stream;
  }

  /** `sent`: the host has taken the bytes, or the client has gone; until then they must not change. */
  send(bytes: Uint8Array, sent?: () => void): void {
    if (this.#queue !== null) this.#queue.push([bytes, sent]);
    else this.#write(bytes, sent);
  }

  /** One reply in several parts with nothing of others between them. */
  async exclusively(work: (send: Send) => Promise<void>): Promise<void> {
    const before = this.#turn;
    let end: () => void = () => undefined;
    this.#turn = new Promise((resolve) => (end = resolve));
    await before;
    this.#queue = [];
    try {
      await work((bytes, sent) => this.#write(bytes, sent));
    } finally {
      const waiting = this.#queue;
      this.#queue = null;
      for (const [bytes, sent] of waiting) this.#write(bytes, sent);
      end();
    }
  }

  /** All that was sent has left, or never will. */
  async drained(): Promise<void> {
    while (this.#unsent > 0) await new Promise<void>((resolve) => this.#onSent.push(resolve));
  }

  #write(bytes: Uint8Array, sent?: () => void): void {
    if (!this.#isCorked) {
      this.#isCorked = true;
      this.#stream.cork();
      // Behind all completions that this turn brings.
      setImmediate(() => {
        this.#isCorked = false;
        this.#stream.uncork();
      });
    }
    this.#unsent++;
    this.#stream.write(bytes, () => {
      this.#unsent--;
      sent?.();
      if (this.#unsent === 0) for (const resolve of this.#onSent.splice(0)) resolve();
    });
  }
}
