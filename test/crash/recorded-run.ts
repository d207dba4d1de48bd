/** A run of the engine as a log of what it wrote, and the judge of what a crash makes of it. */
import { compactDevice } from '../../src/compactor/compact.js';
import type { CompactOptions, CompactResult, EraseOptions } from '../../src/compactor/types.js';
import { eraseDevice } from '../../src/compactor/erase.js';
import { secretOf } from '../support/luks.js';
import { MemoryDevice, type MemoryDeviceOptions } from '../../src/device/memory-device.js';
import { type Operation, RecordingDevice } from '../../src/device/recording-device.js';
import { compareGuestView, type GuestView, guestView, inspect } from '../support/oracle.js';

export type Options = CompactOptions & { maxMoves?: number };

export interface RecordedRun {
  initial: Uint8Array;
  log: readonly Operation[];
  final: Uint8Array;
  options?: Options;
}

export async function recordCompaction(
  initial: Uint8Array,
  options: Options = {},
  host: MemoryDeviceOptions = {},
): Promise<RecordedRun & { result: CompactResult }> {
  const memory = new MemoryDevice(initial, host);
  const recording = new RecordingDevice(memory);
  const result = await compactDevice(recording, { ...secretOf(initial), ...options });
  return { initial, log: recording.log, final: memory.bytes(), options, result };
}

export async function recordErasing(initial: Uint8Array, options: EraseOptions = {}): Promise<RecordedRun> {
  const memory = new MemoryDevice(initial);
  const recording = new RecordingDevice(memory);
  await eraseDevice(recording, options);
  return { initial, log: recording.log, final: memory.bytes() };
}

/** Says what is wrong with a state of the image: a corruption, or another guest view than before. */
export class Judge {
  readonly #view: GuestView;
  readonly clusterSize: number;

  constructor(initial: Uint8Array) {
    // The view keeps the bytes that it reads.
    this.#view = guestView(initial.slice());
    this.clusterSize = this.#view.layout.clusterSize;
  }

  flawOf(bytes: Uint8Array): string | null {
    const { corruptions } = inspect(bytes);
    if (corruptions.length > 0) return `corrupt: ${corruptions[0]}`;
    const difference = compareGuestView(this.#view, bytes);
    return difference === null ? null : `the guest view changed: ${difference}`;
  }
}
