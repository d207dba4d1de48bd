/** The marks of an image that was not closed cleanly, or in which QEMU found damage (incompatible bits 0 and 1). */
import { type BlockDevice, SECTOR } from '../device/block-device.js';
import { type Header, INCOMPATIBLE, INCOMPATIBLE_LOW_AT } from '../format/header.js';
import { viewOf } from '../format/words.js';

export type Mark = 'dirty' | 'corrupt';

export function marksOf({ incompatible }: Header): Mark[] {
  return (['dirty', 'corrupt'] as const).filter((mark) => (incompatible[1] & INCOMPATIBLE[mark]) !== 0);
}

/** One write of the first sector, of which nothing else changes. */
export async function clearMarks(device: BlockDevice, marks: readonly Mark[]): Promise<void> {
  const sector = new Uint8Array(SECTOR);
  await device.read(sector, 0);
  const view = viewOf(sector);
  const bits = marks.reduce((sum, mark) => sum | INCOMPATIBLE[mark], 0);
  view.setUint32(INCOMPATIBLE_LOW_AT, (view.getUint32(INCOMPATIBLE_LOW_AT) & ~bits) >>> 0);
  await device.write(sector, 0);
}
