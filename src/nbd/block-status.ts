/** Answers which stretches of the disk have data. */
import { AllocationFlag } from './protocol.js';
import type { Stretch, ServedDisk } from './served-disk.js';
import type { Extent } from './transmission-codec.js';

/** Asked for at a time, so that nothing long goes on for a client that has gone. */
const STEP_BYTES = 256 << 20;
/** The client asks again where the reply ends. */
const MOST_EXTENTS = 4096;

/** From the beginning of the stretch, at least one; neighbours differ. Null where `isCut` came first. */
export async function extentsOf(
  disk: ServedDisk,
  offset: number,
  lengthBytes: number,
  { mostExtents = MOST_EXTENTS, isCut }: { mostExtents?: number; isCut: () => boolean },
): Promise<Extent[] | null> {
  const found: Extent[] = [];
  const end = offset + lengthBytes;
  for (let at = offset; at < end;) {
    if (isCut()) return null;
    // One more than fit: it may go on with what the last one has.
    const most = mostExtents + 1 - found.length;
    for (const status of await disk.blockStatus(at, Math.min(STEP_BYTES, end - at), most)) {
      const flags = flagsOf(status);
      const last = found.at(-1);
      if (last?.flags === flags) last.lengthBytes += status.lengthBytes;
      else if (found.length === mostExtents) return found;
      else found.push({ lengthBytes: status.lengthBytes, flags });
      at = status.offset + status.lengthBytes;
    }
  }
  return found;
}

function flagsOf({ isAllocated, isZero }: Stretch): number {
  return (isAllocated ? 0 : AllocationFlag.hole) | (isZero ? AllocationFlag.zero : 0);
}
