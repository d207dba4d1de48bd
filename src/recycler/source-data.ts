/**
 * Where the sources of a round have data, asked once before the round's first write: a search for holes waits
 * for every write to the file that is under way, and the whole process waits with it (0.2 s in 4 GiB).
 */
import type { BlockDevice, ByteRange } from '../device/block-device.js';

export class SourceData {
  /** Ascending and apart from each other. */
  readonly #extents: ByteRange[] = [];

  /** `sources`: ascending stretches of bytes. An answer that reaches further serves the next ones too. */
  constructor(device: BlockDevice, sources: readonly ByteRange[]) {
    const limit = sources.at(-1)?.end ?? 0;
    /** Up to here the host's holes are known. */
    let known = 0;
    for (const { start, end } of sources) {
      for (let at = Math.max(start, known); at < end; at = known) {
        const extent = device.dataExtent(at, limit);
        if (extent !== null) this.#extents.push(extent);
        known = extent?.end ?? limit;
      }
    }
  }

  /** First data at or after `offset`, clipped to `end`; null where all of [offset, end) is a hole. Sources only. */
  within(offset: number, end: number): ByteRange | null {
    let low = 0;
    let high = this.#extents.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#extents[middle]!.end <= offset) low = middle + 1;
      else high = middle;
    }
    const extent = this.#extents[low];
    if (extent === undefined || extent.start >= end) return null;
    return { start: Math.max(extent.start, offset), end: Math.min(extent.end, end) };
  }
}

/** For those that must copy holes too. */
export const EVERYTHING: Pick<SourceData, 'within'> = { within: (start, end) => ({ start, end }) };
