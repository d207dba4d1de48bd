/** What work on an image takes of memory, as far as its header tells. */

/** Refcounts, references, kinds, states and marks, with what is there twice while they grow. */
const PER_CLUSTER = 16;
/** What a plan has for each of its moves. */
const PER_MOVE = 160;
const MOST_MOVES = 1 << 20;
/** Buffers of the copies and reads that are under way, and those that are not collected yet. */
const BUFFER_BYTES = 80 << 20;

/** Bytes at most, but for compressed extents, which only the walk counts: about 110 more for each of these. */
export function memoryFor(lengthBytes: number, clusterBytes: number): number {
  const clusters = Math.ceil(lengthBytes / clusterBytes);
  const moves = Math.min(MOST_MOVES, clusters / 2);
  return Math.ceil(clusters * PER_CLUSTER + moves * PER_MOVE + Math.min(BUFFER_BYTES, 2 * lengthBytes));
}
