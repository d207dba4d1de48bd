/** The slots that name the sources of a plan, on disk and in tables that are ahead of it. */
import { HI_COMPRESSED, entryOffset } from '../../format/entries.js';
import { type Slots, indexIn } from '../../recycler/moves.js';
import { collectSlots } from '../../recycler/slot-collector.js';
import type { Volume } from '../../recycler/volume.js';
import type { Tables } from '../tables.js';

/**
 * By round. Clients go on meanwhile: what they change may be missing, or be there without need. The update of references
 * finds both out.
 */
export async function collectLiveSlots(
  volume: Volume,
  tables: Tables,
  sources: Uint32Array,
  roundOf: Uint32Array,
  roundCount: number,
): Promise<Slots[]> {
  const { image, clusters, clusterBytes } = volume;
  const rounds = await collectSlots(image, clusters, sources, roundOf, roundCount);
  const added = rounds.map((): [slot: number, move: number][] => []);
  for (const { table, entryBytes } of dirtyTables(tables)) {
    for (let index = 0; index * entryBytes < table.bytes.length; index++) {
      const hi = table.hi(index);
      if ((hi & HI_COMPRESSED) !== 0) continue;
      const move = indexIn(sources, entryOffset(hi, table.lo(index)) / clusterBytes);
      if (move >= 0) added[roundOf[move]!]!.push([table.cluster * clusterBytes + index * entryBytes, move]);
    }
  }
  return rounds.map((slots, round) => (added[round]!.length === 0 ? slots : merge(slots, added[round]!)));
}

function* dirtyTables(tables: Tables) {
  for (const table of tables.dirty)
    yield { table, entryBytes: table === tables.l1 ? 8 : tables.geometry.entryBytes };
}

/** Each slot once, and those in one cluster next to each other. */
function merge({ offsets, moves }: Slots, added: readonly [slot: number, move: number][]): Slots {
  const all = new Map(added);
  for (const [i, offset] of offsets.entries()) if (!all.has(offset)) all.set(offset, moves[i]!);
  const sorted = [...all].sort(([a], [b]) => a - b);
  return {
    offsets: Float64Array.from(sorted, ([offset]) => offset),
    moves: Uint32Array.from(sorted, ([, move]) => move),
  };
}
