/** For work that only reads: it has no barrier to stop at, so the first read after the signal ends it. */
import type { BlockDevice } from './block-device.js';
import { ForwardingDevice } from './forwarding-device.js';

export class StoppableDevice extends ForwardingDevice {
  readonly #signal: AbortSignal;

  constructor(inner: BlockDevice, signal: AbortSignal) {
    super(inner);
    this.#signal = signal;
  }

  /** Rejects with the signal's reason. */
  override async read(target: Uint8Array, offset: number): Promise<void> {
    this.#signal.throwIfAborted();
    await this.inner.read(target, offset);
  }
}
