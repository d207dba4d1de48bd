/** Lines for a reader who may have stopped reading: what he does not take is kept only so far, and then counted. */
import type { Writable } from 'node:stream';

/** Beyond it lines are dropped. */
const MOST_WAITING_BYTES = 256 << 10;

export class ServeLog {
  readonly #stream: Pick<Writable, 'write' | 'writableLength'>;
  readonly #droppedLine: (count: number) => string;
  #dropped = 0;

  /** `droppedLine`: says how many there were, once there is room again. */
  constructor(stream: Pick<Writable, 'write' | 'writableLength'>, droppedLine: (count: number) => string) {
    this.#stream = stream;
    this.#droppedLine = droppedLine;
  }

  /** `isVital`: comes once or twice in the life of a server, and is never dropped. */
  write(line: string, isVital = false): void {
    const hasRoom = this.#stream.writableLength < MOST_WAITING_BYTES;
    if (!hasRoom && !isVital) {
      this.#dropped++;
      return;
    }
    if (this.#dropped > 0) this.#stream.write(this.#droppedLine(this.#dropped));
    this.#dropped = 0;
    this.#stream.write(line);
  }
}
