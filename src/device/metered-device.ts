/** Counts what passes through to another device. */
import type { BlockDevice, ByteRange } from './block-device.js';

export class MeteredDevice implements BlockDevice {
  readonly #device: BlockDevice;
  bytesRead = 0;
  bytesWritten = 0;
  barriers = 0;
  /** Writes, punches and truncations: 0 means that the file was not touched. */
  changes = 0;

  constructor(device: BlockDevice) {
    this.#device = device;
  }

  get lengthBytes(): number {
    return this.#device.lengthBytes;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    await this.#device.read(target, offset);
    this.bytesRead += target.length;
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    this.changes++;
    await this.#device.write(source, offset);
    this.bytesWritten += source.length;
  }

  async flush(): Promise<void> {
    await this.#device.flush();
    this.barriers++;
  }

  async truncate(lengthBytes: number): Promise<void> {
    this.changes++;
    await this.#device.truncate(lengthBytes);
  }

  dataExtent(offset: number, end: number): ByteRange | null {
    return this.#device.dataExtent(offset, end);
  }

  get canPunch(): boolean {
    return this.#device.canPunch;
  }

  async punch(offset: number, lengthBytes: number): Promise<void> {
    this.changes++;
    await this.#device.punch(offset, lengthBytes);
  }

  freeBytes(): Promise<number> {
    return this.#device.freeBytes();
  }

  allocatedBytes(): number {
    return this.#device.allocatedBytes();
  }

  close(): Promise<void> {
    return this.#device.close();
  }
}
