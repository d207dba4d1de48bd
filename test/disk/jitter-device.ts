/** Passes everything to another device, each operation after a few turns of the event queue: always the same for a seed. */
import { ForwardingDevice } from '../../src/device/forwarding-device.js';
import type { BlockDevice } from '../../src/device/block-device.js';
import { Random } from '../support/random.js';

const MOST_TURNS = 12;

export class JitterDevice extends ForwardingDevice {
  readonly #random: Random;

  constructor(inner: BlockDevice, seed: number) {
    super(inner);
    this.#random = new Random(seed);
  }

  async #turns(): Promise<void> {
    for (let turns = this.#random.int(MOST_TURNS); turns > 0; turns--) await Promise.resolve();
  }

  async #late(work: () => Promise<void>): Promise<void> {
    await this.#turns();
    await work();
    await this.#turns();
  }

  override read(target: Uint8Array, offset: number): Promise<void> {
    return this.#late(() => this.inner.read(target, offset));
  }

  override write(source: Uint8Array, offset: number): Promise<void> {
    return this.#late(() => this.inner.write(source, offset));
  }

  override flush(): Promise<void> {
    return this.#late(() => this.inner.flush());
  }

  override truncate(lengthBytes: number): Promise<void> {
    return this.#late(() => this.inner.truncate(lengthBytes));
  }

  override punch(offset: number, lengthBytes: number): Promise<void> {
    return this.#late(() => this.inner.punch(offset, lengthBytes));
  }
}
