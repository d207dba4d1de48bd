/**
 * Passes everything to another device and keeps a log of what changes the file, in the order a crash may observe:
 * what stands before a flush in the log was complete when that flush began, and is durable once it is logged.
 */

import { ForwardingDevice } from './forwarding-device.js';

export type Modification =
  | { kind: 'write'; offset: number; bytes: Uint8Array }
  | { kind: 'punch'; offset: number; length: number }
  | { kind: 'truncate'; length: number };

export type Operation = Modification | { kind: 'flush' };

export class RecordingDevice extends ForwardingDevice {
  readonly log: Operation[] = [];
  reads = 0;
  bytesRead = 0;
  writes = 0;
  bytesWritten = 0;
  bytesShared = 0;
  flushes = 0;

  readonly #inFlight = new Set<Operation>();

  override read(target: Uint8Array, offset: number): Promise<void> {
    this.reads += 1;
    this.bytesRead += target.length;
    return this.inner.read(target, offset);
  }

  override write(source: Uint8Array, offset: number): Promise<void> {
    this.writes += 1;
    this.bytesWritten += source.length;
    return this.#modify({ kind: 'write', offset, bytes: source.slice() }, () =>
      this.inner.write(source, offset),
    );
  }

  override truncate(length: number): Promise<void> {
    return this.#modify({ kind: 'truncate', length }, () => this.inner.truncate(length));
  }

  override punch(offset: number, length: number): Promise<void> {
    return this.#modify({ kind: 'punch', offset, length }, () => this.inner.punch(offset, length));
  }

  /** Logged as a write of what the source held at the call: what a crash leaves of it is the same. */
  override async share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    const bytes = new Uint8Array(lengthBytes);
    await this.inner.read(bytes, from);
    let shared = false;
    const operation: Operation = { kind: 'write', offset: to, bytes };
    await this.#modify(operation, async () => {
      shared = await this.inner.share(from, to, lengthBytes);
    });
    if (shared) this.bytesShared += lengthBytes;
    return shared;
  }

  override async flush(): Promise<void> {
    this.flushes += 1;
    const barrier: Operation = { kind: 'flush' };
    this.log.push(barrier);
    // A flush promises nothing about what is still under way: that moves behind the barrier.
    for (const operation of this.#inFlight) {
      this.log.splice(this.log.indexOf(operation), 1);
      this.log.push(operation);
    }
    try {
      await this.inner.flush();
    } catch (error) {
      this.log.splice(this.log.indexOf(barrier), 1);
      throw error;
    }
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
