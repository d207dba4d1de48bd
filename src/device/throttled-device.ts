/** Holds reads and writes back to the rate of a limiter. What shares, punches or cuts off moves no bytes and is free. */
import type { BlockDevice } from './block-device.js';
import { ForwardingDevice } from './forwarding-device.js';
import type { RateLimiter } from './rate-limiter.js';

export class ThrottledDevice extends ForwardingDevice {
  readonly #limiter: RateLimiter;
  readonly #hurries: () => boolean;

  /** `hurries`: true once the run shall stop, so that what is left to do until its barrier is not held back. */
  constructor(inner: BlockDevice, limiter: RateLimiter, hurries: () => boolean) {
    super(inner);
    this.#limiter = limiter;
    this.#hurries = hurries;
  }

  override async read(target: Uint8Array, offset: number): Promise<void> {
    await this.#limiter.take('read', target.length, this.#hurries);
    await this.inner.read(target, offset);
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    await this.#limiter.take('write', source.length, this.#hurries);
    await this.inner.write(source, offset);
  }
}
