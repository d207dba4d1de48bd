/**
 * Clients that use one disk at a time, at random but always the same for a seed, against a model of it: what each request
 * should see, byte by byte. Requests that touch the same sectors do not overlap in time, unless all of them read.
 */
import { expect } from 'vitest';
import type { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { Random } from '../support/random.js';

const SECTOR = 512;

export interface Mix {
  clients: number;
  /** Longest request. */
  mostBytes: number;
  /** Requests begin and end at sectors. */
  isAligned?: boolean;
  /** Of 100 requests. */
  flushes?: number;
}

export type Change = { kind: 'write'; bytes: Uint8Array } | { kind: 'zero' };

/** Hears of every change, for models of more than the present. */
export interface Listener {
  begins?(offset: number, after: Uint8Array): unknown;
  ends?(begun: unknown, error: unknown): void;
  flushBegins?(): unknown;
  flushEnds?(begun: unknown, error: unknown): void;
  /** Judges a read in place of the clients, where some write has failed; null where it is right. */
  reads?(offset: number, bytes: Uint8Array): string | null;
  readFails?(error: unknown): void;
}

interface Busy {
  start: number;
  end: number;
  writes: boolean;
}

export class Clients {
  readonly content: Uint8Array;
  operations = 0;
  failures = 0;
  readonly #disk: Qcow2Disk;
  readonly #random: Random;
  readonly #mix: Mix;
  readonly #listener: Listener;
  readonly #busy = new Set<Busy>();

  constructor(disk: Qcow2Disk, content: Uint8Array, seed: number, mix: Mix, listener: Listener = {}) {
    this.#disk = disk;
    this.content = content;
    this.#random = new Random(seed);
    this.#mix = mix;
    this.#listener = listener;
  }

  /** So many requests of all clients together. */
  async run(operations: number): Promise<void> {
    const end = this.operations + operations;
    const client = async () => {
      while (this.operations < end) {
        this.operations++;
        await this.#step();
      }
    };
    await Promise.all(Array.from({ length: this.#mix.clients }, client));
  }

  async #step(): Promise<void> {
    const what = this.#random.int(100);
    if (what < (this.#mix.flushes ?? 3)) return this.#flush();
    const range = this.#range(what >= 55);
    if (range === null) return this.#flush();
    try {
      const { start, end } = range;
      if (what < 55) await this.#read(start, end - start);
      else if (what < 80) await this.#write(start, end - start);
      else await this.#zero(start, end - start, what < 90);
    } finally {
      this.#busy.delete(range);
    }
  }

  /** A stretch that nobody is at; null where none was found. */
  #range(writes: boolean): Busy | null {
    const random = this.#random;
    const { length } = this.content;
    for (let tries = 0; tries < 8; tries++) {
      const isShort = random.chance(0.5);
      let size = 1 + random.int(isShort ? Math.min(2048, this.#mix.mostBytes) : this.#mix.mostBytes);
      let start = random.int(length);
      if (this.#mix.isAligned === true || random.chance(0.4)) {
        start -= start % SECTOR;
        size = Math.ceil(size / SECTOR) * SECTOR;
      }
      // Now and then all to the end, where clusters are cut off by the disk's end.
      const end = random.chance(0.03)
        ? Math.min(length, start + this.#mix.mostBytes * 2)
        : Math.min(length, start + size);
      const [first, last] = [start - (start % SECTOR), Math.ceil(end / SECTOR) * SECTOR];
      const isFree = [...this.#busy].every(
        (other) => other.end <= first || last <= other.start || (!other.writes && !writes),
      );
      if (!isFree) continue;
      const busy = { start, end, writes };
      this.#busy.add(busy);
      return busy;
    }
    return null;
  }

  async #read(offset: number, lengthBytes: number): Promise<void> {
    const bytes = new Uint8Array(lengthBytes).fill(0xa5);
    try {
      await this.#disk.read(bytes, offset);
    } catch (error) {
      if (this.#listener.readFails === undefined) throw error;
      this.#listener.readFails(error);
      this.failures++;
      return;
    }
    if (this.#listener.reads !== undefined) {
      expect(this.#listener.reads(offset, bytes), `a read of ${lengthBytes} at ${offset}`).toBeNull();
      return;
    }
    const wanted = this.content.subarray(offset, offset + lengthBytes);
    if (Buffer.compare(bytes, wanted) !== 0) {
      const at = bytes.findIndex((byte, i) => byte !== wanted[i]);
      expect.fail(
        `byte ${offset + at} is ${bytes[at]}, not ${wanted[at]}, in a read of ${lengthBytes} at ${offset}`,
      );
    }
  }

  async #write(offset: number, lengthBytes: number): Promise<void> {
    const bytes = this.#random.bytes(lengthBytes);
    await this.#change(offset, bytes, () => this.#disk.write(bytes, offset));
  }

  async #zero(offset: number, lengthBytes: number, discards: boolean): Promise<void> {
    const mayUnmap = this.#random.chance(0.5);
    await this.#change(offset, new Uint8Array(lengthBytes), () =>
      discards
        ? this.#disk.discard(offset, lengthBytes)
        : this.#disk.writeZeroes(offset, lengthBytes, { mayUnmap }),
    );
  }

  async #change(offset: number, after: Uint8Array, work: () => Promise<void>): Promise<void> {
    const begun = this.#listener.begins?.(offset, after);
    let failure: unknown = null;
    try {
      await work();
      this.content.set(after, offset);
    } catch (error) {
      if (this.#listener.ends === undefined) throw error;
      failure = error;
      this.failures++;
    }
    this.#listener.ends?.(begun, failure);
  }

  async #flush(): Promise<void> {
    const begun = this.#listener.flushBegins?.();
    let failure: unknown = null;
    try {
      await this.#disk.flush();
    } catch (error) {
      if (this.#listener.flushEnds === undefined) throw error;
      failure = error;
      this.failures++;
    }
    this.#listener.flushEnds?.(begun, failure);
  }
}
