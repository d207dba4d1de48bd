/** Passes everything to another device, but stops chosen operations until the test lets them go on. */
import type { BlockDevice, ByteRange } from '../../src/device/block-device.js';

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

export class GateDevice implements BlockDevice {
  /** Called before each operation that reaches the device. */
  onOperation: (kind: GatedKind | 'punch') => void = () => undefined;
  readonly #inner: BlockDevice;
  #barriers: Barrier[] = [];

  constructor(inner: BlockDevice) {
    this.#inner = inner;
  }

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

  get lengthBytes(): number {
    return this.#inner.lengthBytes;
  }

  get canPunch(): boolean {
    return this.#inner.canPunch;
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    await this.#gate('read', offset, target.length);
    await this.#inner.read(target, offset);
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    await this.#gate('write', offset, source.length);
    await this.#inner.write(source, offset);
  }

  async flush(): Promise<void> {
    await this.#gate('flush');
    await this.#inner.flush();
  }

  async truncate(lengthBytes: number): Promise<void> {
    await this.#gate('truncate');
    await this.#inner.truncate(lengthBytes);
  }

  async punch(offset: number, lengthBytes: number): Promise<void> {
    this.onOperation('punch');
    await this.#inner.punch(offset, lengthBytes);
  }

  dataExtent(offset: number, end: number): ByteRange | null {
    return this.#inner.dataExtent(offset, end);
  }

  freeBytes(): Promise<number> {
    return this.#inner.freeBytes();
  }

  allocatedBytes(): number {
    return this.#inner.allocatedBytes();
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}
