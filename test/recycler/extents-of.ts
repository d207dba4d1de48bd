/** Compressed extents without an image. */
import { Extents } from '../../src/image/extents.js';

/** Extents by [offset, end] and paths, one descriptor each. */
export function extentsOf(...ranges: readonly [offset: number, end: number, paths?: number][]): Extents {
  return new Extents({
    offsets: Float64Array.from(ranges, ([offset]) => offset),
    lengths: Uint32Array.from(ranges, ([offset, end]) => end - offset),
    slots: Float64Array.from(ranges, (_, i) => 8 * i),
    paths: Uint32Array.from(ranges, ([, , paths]) => paths ?? 1),
  });
}
