/**
 * What a client sends, taken in pieces of the length that is asked for, however the network has cut it. What nobody has
 * taken yet is bounded: beyond that the socket is not read.
 */
import type { Readable } from 'node:stream';

/** More than this waits in the kernel, and then at the client. */
const MOST_WAITING_BYTES = 128 << 10;

/** The client has gone, or was made to, before what was asked for had come. */
export class Disconnected extends Error {
  override readonly name = 'Disconnected';
}

export class Input {
  readonly #stream: Readable;
  #chunks: Buffer[] = [];
  /** Bytes of the first chunk that were taken. */
  #taken = 0;
  #waitingBytes = 0;
  #hasEnded = false;
  #isDiscarding = false;
  #wake: (() => void) | null = null;
  readonly #onEnd = new Set<() => void>();

  constructor(stream: Readable) {
    this.#stream = stream;
    stream.on('data', this.#receive);
    stream.once('end', this.#end);
    stream.once('close', this.#end);
  }

  readonly #receive = (chunk: Buffer): void => {
    if (this.#isDiscarding) return;
    this.#chunks.push(chunk);
    this.#waitingBytes += chunk.length;
    if (this.#waitingBytes >= MOST_WAITING_BYTES) this.#stream.pause();
    this.#wakeUp();
  };

  readonly #end = (): void => {
    this.#hasEnded = true;
    this.#wakeUp();
    for (const heard of this.#onEnd) heard();
    this.#onEnd.clear();
  };

  /** Nothing more comes: whoever waits hears `Disconnected`, once what has come is used up. */
  end(): void {
    this.#end();
  }

  /** Calls `heard` once the client has gone, whether what it sent is used up or not, unless the answer is called before. */
  whenEnded(heard: () => void): () => void {
    if (this.#hasEnded) heard();
    else this.#onEnd.add(heard);
    return () => void this.#onEnd.delete(heard);
  }

  /** Bytes that have come and were not taken. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** The next bytes, where they are here; not to be changed. */
  tryTake(lengthBytes: number): Buffer | null {
    if (this.#waitingBytes < lengthBytes) return null;
    const [first] = this.#chunks;
    if (first !== undefined && first.length - this.#taken >= lengthBytes) {
      const bytes = first.subarray(this.#taken, this.#taken + lengthBytes);
      this.#advance(lengthBytes);
      return bytes;
    }
    const bytes = Buffer.allocUnsafe(lengthBytes);
    this.#copyTo(bytes);
    return bytes;
  }

  /** For short pieces: all of it waits here. */
  async take(lengthBytes: number): Promise<Buffer> {
    for (;;) {
      const bytes = this.tryTake(lengthBytes);
      if (bytes !== null) return bytes;
      await this.#more();
    }
  }

  /** Fills `target`, where there is enough for it; else it stays as it is. */
  tryTakeInto(target: Uint8Array): boolean {
    return this.#waitingBytes >= target.length && this.#copyTo(target) === target.length;
  }

  /** Fills `target`. */
  async takeInto(target: Uint8Array): Promise<void> {
    for (let at = 0; ;) {
      at += this.#copyTo(target.subarray(at));
      if (at === target.length) return;
      await this.#more();
    }
  }

  async skip(lengthBytes: number): Promise<void> {
    for (let left = lengthBytes; ;) {
      const here = Math.min(left, this.#waitingBytes);
      this.#advance(here);
      left -= here;
      if (left === 0) return;
      await this.#more();
    }
  }

  /** Hands the stream over, before anything more is read. */
  detach(): void {
    this.#stream.off('data', this.#receive).off('end', this.#end).off('close', this.#end);
    this.#stream.pause();
  }

  /** Nobody takes anything any more; what comes is read all the same, so that the client is not told of a reset. */
  discard(): void {
    this.#isDiscarding = true;
    this.#chunks = [];
    this.#waitingBytes = 0;
    this.#stream.resume();
  }

  async #more(): Promise<void> {
    if (this.#hasEnded) throw new Disconnected('the client has gone');
    await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** As much as is here and fits. */
  #copyTo(target: Uint8Array): number {
    let at = 0;
    while (at < target.length && this.#waitingBytes > 0) {
      const chunk = this.#chunks[0]!;
      const length = Math.min(target.length - at, chunk.length - this.#taken);
      target.set(chunk.subarray(this.#taken, this.#taken + length), at);
      this.#advance(length);
      at += length;
    }
    return at;
  }

  #advance(lengthBytes: number): void {
    this.#waitingBytes -= lengthBytes;
    this.#taken += lengthBytes;
    let used = 0;
    while (used < this.#chunks.length && this.#taken >= this.#chunks[used]!.length) {
      this.#taken -= this.#chunks[used]!.length;
      used++;
    }
    if (used > 0) this.#chunks.splice(0, used);
    if (this.#stream.isPaused() && this.#waitingBytes < MOST_WAITING_BYTES) this.#stream.resume();
  }
}
