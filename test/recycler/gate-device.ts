/** Passes everything to another device, but stops chosen operations until the test lets them go on. */
import { ForwardingDevice } from '../../src/device/forwarding-device.js';

export type GatedKind = 'read' | 'write' | 'flush' | 'truncate';

export interface Gate {
  /** Resolves when an operation stands at the gate. */
  arrived: Promise<void>;
  /** Lets it and all later ones pass. */
  open: () => void;
}

interface Barrier {
  kind: GatedKind;
  matches: (offset: number, lengthBytes: number) => boolean;
  arrive: () => void;
  passed: Promise<void>;
}

export class GateDevice extends ForwardingDevice {
  /** Called before each operation that reaches the device. */
  onOperation: (kind: GatedKind | 'punch') => void = () => undefined;
  #barriers: Barrier[] = [];

  /** Stops operations of `kind` that touch a byte of [offset, offset + length); without those, all of the kind. */
  shut(kind: GatedKind, offset = 0, lengthBytes = Infinity): Gate {
    let arrive: () => void = () => undefined;
    let pass: () => void = () => undefined;
    const arrived = new Promise<void>((resolve) => (arrive = resolve));
    const passed = new Promise<void>((resolve) => (pass = resolve));
    const barrier: Barrier = {
      kind,
      matches: (at, length) => at < offset + lengthBytes && offset < at + Math.max(1, length),
      arrive,
      passed,
    };
    this.#barriers.push(barrier);
    const open = () => {
      this.#barriers = this.#barriers.filter((other) => other !== barrier);
      pass();
    };
    return { arrived, open };
  }

  async #gate(kind: GatedKind, offset = 0, lengthBytes = Infinity): Promise<void> {
    for (const barrier of [...this.#barriers]) {
      if (barrier.kind !== kind || !barrier.matches(offset, lengthBytes)) continue;
      barrier.arrive();
      await barrier.passed;
    }
    this.onOperation(kind);
  }

  override async read(target: Uint8Array, offset: number): Promise<void> {
    await this.#gate('read', offset, target.length);
    await this.inner.read(target, offset);
  }

  override async write(source: Uint8Array, offset: number): Promise<void> {
    await this.#gate('write', offset, source.length);
    await this.inner.write(source, offset);
  }

  override async flush(): Promise<void> {
    await this.#gate('flush');
    await this.inner.flush();
  }

  override async truncate(lengthBytes: number): Promise<void> {
    await this.#gate('truncate');
    await this.inner.truncate(lengthBytes);
  }

  override async punch(offset: number, lengthBytes: number): Promise<void> {
    this.onOperation('punch');
    await this.inner.punch(offset, lengthBytes);
  }
}
