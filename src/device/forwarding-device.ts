/** Passes everything to another device; those that stack on one override what they change. */
import type { BlockDevice, ByteRange } from './block-device.js';

export class ForwardingDevice implements BlockDevice {
  protected readonly inner: BlockDevice;

  constructor(inner: BlockDevice) {
    this.inner = inner;
  }

  get lengthBytes(): number {
    return this.inner.lengthBytes;
  }

  get blockBytes(): number {
    return this.inner.blockBytes;
  }

  get canPunch(): boolean {
    return this.inner.canPunch;
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    return this.inner.read(target, offset);
  }

  write(source: Uint8Array, offset: number): Promise<void> {
    return this.inner.write(source, offset);
  }

  flush(): Promise<void> {
    return this.inner.flush();
  }

  truncate(lengthBytes: number): Promise<void> {
    return this.inner.truncate(lengthBytes);
  }

  punch(offset: number, lengthBytes: number): Promise<void> {
    return this.inner.punch(offset, lengthBytes);
  }

  get canShare(): boolean {
    return this.inner.canShare;
  }

  share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    return this.inner.share(from, to, lengthBytes);
  }

  dataExtent(offset: number, end: number): ByteRange | null {
    return this.inner.dataExtent(offset, end);
  }

  freeBytes(): Promise<number> {
    return this.inner.freeBytes();
  }

  reserve(bytes: number): void {
    this.inner.reserve(bytes);
  }

  allocatedBytes(): number {
    return this.inner.allocatedBytes();
  }

  close(): Promise<void> {
    return this.inner.close();
  }
}
