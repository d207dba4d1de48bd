/** What the user should know beside the figures, one line each. */

import type { BlockDevice } from '../device/block-device.js';

/** Below this share of the file there is little to reclaim. */
const LITTLE = 0.01;

export function littleToReclaim(
  lengthBefore: number,
  lengthAfter: number,
  live: number,
  total: number,
): string[] {
  if (lengthBefore - lengthAfter > lengthBefore * LITTLE) return [];
  return [
    `little to reclaim: ${live} of ${total} clusters are in use; what the guest deleted stays in use until it is ` +
      'discarded (run `fstrim -av` in the guest, with the disk attached with discard=unmap)',
  ];
}

/** Whether to punch: only where it was asked for and the host can; adds a notice where it cannot. */
export function decidePunch(asked: boolean | undefined, device: BlockDevice, notices: string[]): boolean {
  if (asked !== true) return false;
  if (!device.canPunch) notices.push(CANNOT_PUNCH);
  return device.canPunch;
}

const CANNOT_PUNCH =
  'the host file system (or a missing koffi package) cannot deallocate blocks: zeroes are written instead of punching';
