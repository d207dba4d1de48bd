import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { type Image, openImage } from '../../src/image/image.js';
import { type Walk, walk } from '../../src/image/walk.js';

export interface Opened {
  memory: MemoryDevice;
  recorder: RecordingDevice;
  image: Image;
  walked: Walk;
}

/** Opens and walks an image in memory. */
export async function opened(bytes: Uint8Array): Promise<Opened> {
  const memory = new MemoryDevice(bytes);
  const recorder = new RecordingDevice(memory);
  const image = await openImage(recorder);
  return { memory, recorder, image, walked: await walk(image) };
}

/** `bytes` with the big-endian 64-bit word at `at` changed. */
export function withWord(bytes: Uint8Array, at: number, change: (word: bigint) => bigint): Uint8Array {
  const result = bytes.slice();
  const view = new DataView(result.buffer);
  view.setBigUint64(at, BigInt.asUintN(64, change(view.getBigUint64(at))));
  return result;
}
