/**
 * What a client is sent: replies of one turn of the event loop leave in one call of the host. What the client does not take
 * is kept, so whoever goes on to reply waits for `room` first.
 */
import type { Writable } from 'node:stream';

export type Send = (bytes: Uint8Array, sent?: () => void) => void;

/** More than this waits in front of the host: then it is time to wait. */
const MOST_WAITING_BYTES = 256 << 10;
/** What one reply takes in memory beside its bytes. */
const OVERHEAD_BYTES = 512;

export class Output {
  readonly #stream: Writable;
  #isCorked = false;
  /** Replies that the host has not taken yet. */
  #unsent = 0;
  /** What they hold. */
  #waitingBytes = 0;
  #onSent: (() => void)[] = [];
  #onRoom: (() => void)[] = [];
  /** What waits while one reply has the stream for itself; null where none has. */
  #queue: [Uint8Array, (() => void) | undefined][] | null = null;
  #turn: Promise<void> = Promise.resolve();

  constructor(stream: Writable) {
    this.#stream = stream;
  }

  /**
   * `sent`: the host has taken the bytes, or the client has gone; until then they must not change. Bytes of which somebody
   * hears that count as that one's, and not here.
   */
  send(bytes: Uint8Array, sent?: () => void): void {
    this.#count(bytes, sent);
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
      await work((bytes, sent) => {
        this.#count(bytes, sent);
        this.#write(bytes, sent);
      });
    } finally {
      const waiting = this.#queue;
      this.#queue = null;
      for (const [bytes, sent] of waiting) this.#write(bytes, sent);
      end();
    }
  }

  get isFull(): boolean {
    return this.#waitingBytes > MOST_WAITING_BYTES;
  }

  /** The client has taken what came before, or has gone. */
  async room(): Promise<void> {
    while (this.isFull) await new Promise<void>((resolve) => this.#onRoom.push(resolve));
  }

  /** All that was sent has left, or never will. */
  async drained(): Promise<void> {
    while (this.#unsent > 0) await new Promise<void>((resolve) => this.#onSent.push(resolve));
  }

  #count(bytes: Uint8Array, sent?: () => void): void {
    this.#unsent++;
    this.#waitingBytes += weightOf(bytes, sent);
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
    this.#stream.write(bytes, () => {
      this.#unsent--;
      this.#waitingBytes -= weightOf(bytes, sent);
      sent?.();
      if (!this.isFull) for (const resolve of this.#onRoom.splice(0)) resolve();
      if (this.#unsent === 0) for (const resolve of this.#onSent.splice(0)) resolve();
    });
  }
}

function weightOf(bytes: Uint8Array, sent: (() => void) | undefined): number {
  return OVERHEAD_BYTES + (sent === undefined ? bytes.length : 0);
}
