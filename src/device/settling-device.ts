/**
 * A barrier before the first change. What was read so far may be in the host's cache only, since the program that
 * wrote it may have been killed: a count that is lowered in the same window could outlive, in a power failure, the
 * pointer that allows it (I2, I3).
 */
import { ForwardingDevice } from './forwarding-device.js';

export class SettlingDevice extends ForwardingDevice {
  #settling: Promise<void> | null = null;
  #isSettled = false;

  /** Called once, where that barrier fails: nothing is changed then, now and later. */
  onFailure: (error: unknown) => void = () => undefined;

  async #settle(): Promise<void> {
    this.#settling ??= this.inner.flush().catch((error: unknown) => {
      this.onFailure(error);
      throw error;
    });
    await this.#settling;
    this.#isSettled = true;
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    if (!this.#isSettled) await this.#settle();
    await this.inner.write(source, offset);
  }

  override async truncate(lengthBytes: number): Promise<void> {
    if (!this.#isSettled) await this.#settle();
    await this.inner.truncate(lengthBytes);
  }

  override async share(from: number, to: number, lengthBytes: number): Promise<boolean> {
    if (!this.#isSettled) await this.#settle();
    return this.inner.share(from, to, lengthBytes);
  }

  override async punch(offset: number, lengthBytes: number): Promise<void> {
    if (!this.#isSettled) await this.#settle();
    await this.inner.punch(offset, lengthBytes);
  }
}
