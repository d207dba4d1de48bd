/** Two ends of a connection in memory: what one writes the other reads, in the same chunks. */
import { Duplex } from 'node:stream';

class End extends Duplex {
  peer: End | null = null;
  #taken: ((error?: Error) => void) | null = null;

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    const peer = this.peer!;
    if (peer.destroyed) return done(new Error('EPIPE'));
    // As a host does: the writer may use its bytes again.
    if (peer.push(Buffer.from(chunk))) done();
    else peer.#taken = done;
  }

  override _read(): void {
    const taken = this.#taken;
    this.#taken = null;
    taken?.();
  }

  override _final(done: () => void): void {
    this.peer!.push(null);
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const { peer } = this;
    this.#taken?.(new Error('EPIPE'));
    // Nobody takes its own last chunk any more.
    const taken = peer!.#taken;
    peer!.#taken = null;
    taken?.(new Error('EPIPE'));
    if (peer !== null && !peer.destroyed && !peer.readableEnded) peer.push(null);
    done(error);
  }
}

export function pair(): [Duplex, Duplex] {
  const [one, other] = [new End(), new End()];
  one.peer = other;
  other.peer = one;
  return [one, other];
}
