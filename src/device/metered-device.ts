/** Counts what passes through to another device. */
import { ForwardingDevice } from './forwarding-device.js';

export class MeteredDevice extends ForwardingDevice {
  bytesRead = 0;
  bytesWritten = 0;
  barriers = 0;
  /** By blocks that two places have in common: moved without being written. */
  bytesShared = 0;
  /** Writes, punches, truncations and sharing: 0 means that the file was not touched. */
  changes = 0;
  /** The host was asked whether it can punch, and cannot. */
  cannotPunch = false;
  /** Called once, when that is known. */
  onCannotPunch: () => void = () => undefined;

  override get canPunch(): boolean {
    const can = this.inner.canPunch;
    if (!can && !this.cannotPunch) {
      this.cannotPunch = true;
      this.onCannotPunch();
    }
    return can;
  }

  override async read(target: Uint8Array, offset: number): Promise<void> {
    await this.inner.read(target, offset);
    this.bytesRead += target.length;
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    this.changes++;
    await this.inner.write(source, offset);
    this.bytesWritten += source.length;
  }

  override async share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    this.changes++;
    const shared = await this.inner.share(from, to, lengthBytes);
    if (shared) this.bytesShared += lengthBytes;
    return shared;
  }

  override async flush(): Promise<void> {
    await this.inner.flush();
    this.barriers++;
  }

  override async truncate(lengthBytes: number): Promise<void> {
    this.changes++;
    await this.inner.truncate(lengthBytes);
  }

  override async punch(offset: number, lengthBytes: number): Promise<void> {
    this.changes++;
    await this.inner.punch(offset, lengthBytes);
  }
}
