/**
 * Passes everything to another device and keeps a log of what changes the file, in the order a crash may observe:
 * what stands before a flush in the log was complete when that flush began, and is durable once it is logged.
 */

import type { BlockDevice, ByteRange } from './block-device.js';

export type Modification =
  | { kind: 'write'; offset: number; bytes: Uint8Array }
  | { kind: 'punch'; offset: number; length: number }
  | { kind: 'truncate'; length: number };

export type Operation = Modification | { kind: 'flush' };

export class RecordingDevice implements BlockDevice {
  readonly log: Operation[] = [];
  reads = 0;
  bytesRead = 0;
  writes = 0;
  bytesWritten = 0;
  flushes = 0;

  readonly #inner: BlockDevice;
  readonly #inFlight = new Set<Operation>();

  constructor(inner: BlockDevice) {
    this.#inner = inner;
  }

  get lengthBytes(): number {
    return this.#inner.lengthBytes;
  }

  get canPunch(): boolean {
    return this.#inner.canPunch;
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    this.reads += 1;
    this.bytesRead += target.length;
    return this.#inner.read(target, offset);
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    this.writes += 1;
    this.bytesWritten += source.length;
    return this.#modify({ kind: 'write', offset, bytes: source.slice() }, () =>
      this.#inner.write(source, offset),
    );
  }

  truncate(length: number): Promise<void> {
    return this.#modify({ kind: 'truncate', length }, () => this.#inner.truncate(length));
  }

  punch(offset: number, length: number): Promise<void> {
    return this.#modify({ kind: 'punch', offset, length }, () => this.#inner.punch(offset, length));
  }

  async flush(): Promise<void> {
    this.flushes += 1;
    const barrier: Operation = { kind: 'flush' };
    this.log.push(barrier);
    // A flush promises nothing about what is still under way: that moves behind the barrier.
    for (const operation of this.#inFlight) {
      this.log.splice(this.log.indexOf(operation), 1);
      this.log.push(operation);
    }
    try {
      await this.#inner.flush();
    } catch (error) {
      this.log.splice(this.log.indexOf(barrier), 1);
      throw error;
    }
  }

  dataExtent(offset: number, end: number): ByteRange | null {
    return this.#inner.dataExtent(offset, end);
  }

  freeBytes(): Promise<number> {
    return this.#inner.freeBytes();
  }

  allocatedBytes(): number {
    return this.#inner.allocatedBytes();
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  /** Logged even when it fails, since a failed write may have reached the disk in part. */
  async #modify(operation: Modification, forward: () => Promise<void>): Promise<void> {
    this.log.push(operation);
    this.#inFlight.add(operation);
    try {
      await forward();
    } finally {
      this.#inFlight.delete(operation);
    }
  }
}
