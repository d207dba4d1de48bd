/** Counts the calls that reach another device, and their bytes: what a run costs, the same on every machine. */
import type { ByteRange } from '../../src/device/block-device.js';
import { ForwardingDevice } from '../../src/device/forwarding-device.js';

export interface Work {
  reads: number;
  bytesRead: number;
  writes: number;
  bytesWritten: number;
  barriers: number;
  truncates: number;
  /** Pieces whose blocks two places share now, and their bytes. */
  shares: number;
  bytesShared: number;
  punches: number;
  /** Where data are in the file, what room the host has. */
  questions: number;
}

export class CountingDevice extends ForwardingDevice {
  readonly work: Work = {
    reads: 0,
    bytesRead: 0,
    writes: 0,
    bytesWritten: 0,
    barriers: 0,
    truncates: 0,
    shares: 0,
    bytesShared: 0,
    punches: 0,
    questions: 0,
  };

  override read(target: Uint8Array, offset: number): Promise<void> {
    this.work.reads++;
    this.work.bytesRead += target.length;
    return this.inner.read(target, offset);
  }

  override write(source: Uint8Array, offset: number): Promise<void> {
    this.work.writes++;
    this.work.bytesWritten += source.length;
    return this.inner.write(source, offset);
  }

  override flush(): Promise<void> {
    this.work.barriers++;
    return this.inner.flush();
  }

  override truncate(lengthBytes: number): Promise<void> {
    this.work.truncates++;
    return this.inner.truncate(lengthBytes);
  }

  override punch(offset: number, lengthBytes: number): Promise<void> {
    this.work.punches++;
    return this.inner.punch(offset, lengthBytes);
  }

  override async share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    const shared = await this.inner.share(from, to, lengthBytes);
    this.work.shares++;
    if (shared) this.work.bytesShared += lengthBytes;
    return shared;
  }

  override dataExtent(offset: number, end: number): ByteRange | null {
    this.work.questions++;
    return this.inner.dataExtent(offset, end);
  }

  override freeBytes(): Promise<number> {
    this.work.questions++;
    return this.inner.freeBytes();
  }

  override allocatedBytes(): number {
    this.work.questions++;
    return this.inner.allocatedBytes();
  }
}
