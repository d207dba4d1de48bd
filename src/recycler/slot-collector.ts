/** Finds the slots that refer to the sources of a plan: one more pass over the tables (design 4.3). */
import type { HostClusters } from '../image/host-clusters.js';
import type { Image } from '../image/image.js';
import { visitReferences } from '../image/references.js';
import { type Slots, indexIn } from './moves.js';

/** Slots of each round. `roundOf[i]`: the round in which move i takes part. Memory follows the moves. */
export async function collectSlots(
  image: Image,
  clusters: HostClusters,
  sources: Uint32Array,
  roundOf: Uint32Array,
  roundCount: number,
): Promise<Slots[]> {
  const { clusterBytes } = image.header;
  const lowest = sources[0]! * clusterBytes;
  let offsets = new Float64Array(Math.max(64, sources.length));
  let moves = new Uint32Array(offsets.length);
  let length = 0;
  const perRound = new Uint32Array(roundCount);
  await visitReferences(image, clusters, {
    reference(slot, target) {
      if (target < lowest) return;
      const move = indexIn(sources, target / clusterBytes);
      if (move < 0) return;
      if (length === offsets.length) {
        const larger = new Float64Array(length * 2);
        larger.set(offsets);
        offsets = larger;
        const more = new Uint32Array(length * 2);
        more.set(moves);
        moves = more;
      }
      offsets[length] = slot;
      moves[length] = move;
      length++;
      perRound[roundOf[move]!]!++;
    },
  });
  // A stable distribution: within a round the slots of one table stay neighbours.
  const rounds = [...perRound].map((count) => ({
    offsets: new Float64Array(count),
    moves: new Uint32Array(count),
  }));
  const filled = new Uint32Array(roundCount);
  for (let i = 0; i < length; i++) {
    const round = roundOf[moves[i]!]!;
    const at = filled[round]!++;
    rounds[round]!.offsets[at] = offsets[i]!;
    rounds[round]!.moves[at] = moves[i]!;
  }
  return rounds;
}
