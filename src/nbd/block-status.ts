/** Answers which stretches of the disk have data. */
import { AllocationFlag } from './protocol.js';
import type { Stretch, ServedDisk } from './served-disk.js';
import type { Extent } from './transmission-codec.js';

/** Asked for at a time: a client may ask for 4 GiB, of which the disk would make one list. */
const STEP_BYTES = 16 << 20;
/** The client asks again where the reply ends. */
const MOST_EXTENTS = 4096;

/** From the beginning of the stretch, at least one; neighbours differ. */
export async function extentsOf(
  disk: ServedDisk,
  offset: number,
  lengthBytes: number,
  mostExtents = MOST_EXTENTS,
): Promise<Extent[]> {
  const found: Extent[] = [];
  const end = offset + lengthBytes;
  for (let at = offset; at < end;) {
    const step = Math.min(STEP_BYTES, end - at);
    for (const status of await disk.blockStatus(at, step)) {
      const flags = flagsOf(status);
      const last = found.at(-1);
      if (last?.flags === flags) last.lengthBytes += status.lengthBytes;
      else if (found.length === mostExtents) return found;
      else found.push({ lengthBytes: status.lengthBytes, flags });
    }
    at += step;
  }
  return found;
}

function flagsOf({ isAllocated, isZero }: Stretch): number {
  return (isAllocated ? 0 : AllocationFlag.hole) | (isZero ? AllocationFlag.zero : 0);
}
