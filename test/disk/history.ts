/**
 * What each sector of the disk may hold after a crash: what the last flush made durable, or anything that was written
 * later, the latest of all included, though its request is not answered yet.
 */
import type { Operation } from '../../src/device/recording-device.js';
import type { Listener } from './clients.js';

const SECTOR = 512;

interface Version {
  bytes: Uint8Array;
  /** Barriers in the device's log when the request began: what stands between two is put in order anew by the second. */
  begunAt: number;
  /** When it ended, counted in events of the clients. */
  ended: number;
}

interface Flush {
  begun: number;
  /** Barriers in the device's log when it was answered. */
  endedAt: number;
}

export class History implements Listener {
  readonly #log: readonly Operation[];
  readonly #versions: Version[][] = [];
  readonly #flushes: Flush[] = [];
  #events = 0;

  constructor(content: Uint8Array, log: readonly Operation[]) {
    this.#log = log;
    for (let at = 0; at < content.length; at += SECTOR) {
      this.#versions.push([{ bytes: content.slice(at, at + SECTOR), begunAt: 0, ended: 0 }]);
    }
  }

  begins(offset: number, after: Uint8Array): Version[] {
    const begun: Version[] = [];
    const begunAt = this.#barriers();
    const end = offset + after.length;
    for (let sector = Math.floor(offset / SECTOR); sector * SECTOR < end; sector++) {
      const versions = this.#versions[sector]!;
      const bytes = versions.at(-1)!.bytes.slice();
      const start = sector * SECTOR;
      const from = Math.max(offset, start);
      bytes.set(after.subarray(from - offset, Math.min(end, start + SECTOR) - offset), from - start);
      const version = { bytes, begunAt, ended: Infinity };
      versions.push(version);
      begun.push(version);
    }
    return begun;
  }

  ends(begun: unknown, error: unknown): void {
    // What failed may be there, in part or not at all, until it is written over.
    if (error !== null) return;
    this.#events++;
    for (const version of begun as Version[]) version.ended = this.#events;
  }

  flushBegins(): number {
    return ++this.#events;
  }

  flushEnds(begun: unknown, error: unknown): void {
    if (error === null) this.#flushes.push({ begun: begun as number, endedAt: this.#barriers() });
  }

  /** The same of a disk that is not cut off: only what failed may be there or not. `offset` is that of a sector. */
  flawNow(content: Uint8Array, offset = 0): string | null {
    for (let at = 0; at < content.length; at += SECTOR) {
      const versions = this.#versions[(offset + at) / SECTOR]!;
      const certain = versions.findLastIndex(({ ended }) => ended < Infinity);
      const bytes = content.subarray(at, at + SECTOR);
      const isAllowed = versions.some(
        (version, i) => i >= certain && Buffer.compare(version.bytes.subarray(0, bytes.length), bytes) === 0,
      );
      if (!isAllowed) return `sector ${(offset + at) / SECTOR} holds what it cannot`;
    }
    return null;
  }

  /** In the first `end` operations of the log. */
  #barriers(end = this.#log.length): number {
    let barriers = 0;
    for (let i = 0; i < end; i++) if (this.#log[i]!.kind === 'flush') barriers++;
    return barriers;
  }

  /** Says which sector of `content` holds what it cannot, after a crash between the barriers around `end` of the log; or null. */
  flawOf(content: Uint8Array, end: number): string | null {
    const barriers = this.#barriers(end);
    let flushed = 0;
    for (const { begun, endedAt } of this.#flushes)
      if (endedAt <= barriers) flushed = Math.max(flushed, begun);
    for (const [sector, versions] of this.#versions.entries()) {
      const bytes = content.subarray(sector * SECTOR, (sector + 1) * SECTOR);
      const durable = versions.findLastIndex(({ ended }) => ended <= flushed);
      const isAllowed = versions.some(
        (version, i) =>
          i >= durable && version.begunAt <= barriers && Buffer.compare(version.bytes, bytes) === 0,
      );
      if (isAllowed) continue;
      const older = versions.findIndex((version) => Buffer.compare(version.bytes, bytes) === 0);
      return `sector ${sector} holds ${older < 0 ? 'what nobody wrote' : 'what it held before the last flush'}`;
    }
    return null;
  }
}
