/** A disk that a server serves in tests: its bytes are there to be looked at, its operations can be held back and fail. */
import type { Stretch, ServedDisk } from '../../src/nbd/served-disk.js';

type Operation = 'read' | 'write' | 'writeZeroes' | 'discard' | 'flush' | 'blockStatus';

const ZEROES = new Uint8Array(4096);

export class MemoryDisk implements ServedDisk {
  readonly bytes: Uint8Array;
  readonly isReadOnly: boolean;
  clusterBytes = 65_536;
  hasFastZeroes = true;
  /** All that was asked of it, in order: `write 4096+512`. */
  readonly log: string[] = [];
  /** Called before each operation: may wait, or throw. */
  before: (operation: Operation, offset: number, lengthBytes: number) => Promise<void> | void = () =>
    undefined;
  atWork = 0;
  mostAtWork = 0;

  constructor(sizeBytes: number, isReadOnly = false) {
    this.bytes = new Uint8Array(sizeBytes);
    this.isReadOnly = isReadOnly;
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    return this.#do('read', offset, target.length, () =>
      target.set(this.bytes.subarray(offset, offset + target.length)),
    );
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    return this.#do('write', offset, source.length, () => this.bytes.set(source, offset));
  }

  writeZeroes(offset: number, lengthBytes: number, { mayUnmap = true } = {}): Promise<void> {
    return this.#do(
      'writeZeroes',
      offset,
      lengthBytes,
      () => this.bytes.fill(0, offset, offset + lengthBytes),
      {
        note: mayUnmap ? '' : ' kept',
      },
    );
  }

  discard(offset: number, lengthBytes: number): Promise<void> {
    return this.#do('discard', offset, lengthBytes, () => this.bytes.fill(0, offset, offset + lengthBytes));
  }

  flush(): Promise<void> {
    return this.#do('flush', 0, 0, () => undefined);
  }

  /** By pages of 4 KiB; what is zero has no room. */
  async blockStatus(offset: number, lengthBytes: number, most = Infinity): Promise<Stretch[]> {
    const found: Stretch[] = [];
    await this.#do('blockStatus', offset, lengthBytes, () => undefined);
    for (let at = offset; at < offset + lengthBytes;) {
      const end = Math.min(offset + lengthBytes, at + 4096 - (at % 4096));
      const isZero = Buffer.compare(this.bytes.subarray(at, end), ZEROES.subarray(0, end - at)) === 0;
      const last = found.at(-1);
      if (last?.isZero === isZero) last.lengthBytes += end - at;
      else if (found.length === most) break;
      else found.push({ offset: at, lengthBytes: end - at, isAllocated: !isZero, isZero });
      at = end;
    }
    return found;
  }

  async #do(
    operation: Operation,
    offset: number,
    lengthBytes: number,
    work: () => unknown,
    { note = '' } = {},
  ): Promise<void> {
    this.log.push(operation === 'flush' ? 'flush' : `${operation} ${offset}+${lengthBytes}${note}`);
    this.mostAtWork = Math.max(this.mostAtWork, ++this.atWork);
    try {
      await this.before(operation, offset, lengthBytes);
      work();
    } finally {
      this.atWork--;
    }
  }
}
