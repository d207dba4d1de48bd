/** Parts of a round whose references are written one after the other, so that clients get in between. */
import { Kind } from '../image/host-clusters.js';
import { MoveState, type Moves } from './moves.js';
import { groupSlots, slotsOf } from './reference-updater.js';
import type { Volume } from './volume.js';

export interface LiveBatch {
  moves: number[];
  /** By cluster that refers to them: the slots in it, by their positions in the round's. */
  groups: Map<number, number[]>;
}

/**
 * The flushed moves, each once. A batch has the references of at most `mostTables` clusters, or one move that more of them
 * name: all that names a cluster has to be written together.
 */
export function batchesOf(volume: Volume, moves: Moves, mostTables: number): LiveBatch[] {
  const batches: LiveBatch[] = [];
  let batch: LiveBatch = { moves: [], groups: new Map() };
  let tables = 0;
  for (const [move, slots] of slotsByMove(volume, moves)) {
    if (moves.state(move) !== MoveState.flushed) continue;
    const isTable = volume.clusters.kind(moves.sources[move]!) === Kind.l2Table;
    const more = [...slots].filter(([cluster]) => !batch.groups.has(cluster)).length + Number(isTable);
    if (batch.moves.length > 0 && tables + more > mostTables) {
      batches.push(batch);
      batch = { moves: [], groups: new Map() };
      tables = 0;
    }
    // Those of the last batch were not all new to this one.
    tables = batch.moves.length === 0 ? slots.size + Number(isTable) : tables + more;
    batch.moves.push(move);
    for (const [cluster, positions] of slots) {
      const found = batch.groups.get(cluster);
      if (found === undefined) batch.groups.set(cluster, positions);
      else for (const position of positions) found.push(position);
    }
  }
  if (batch.moves.length > 0) batches.push(batch);
  return batches;
}

/** Neighbours in a table follow each other. */
function slotsByMove(volume: Volume, moves: Moves): Map<number, Map<number, number[]>> {
  const found = new Map<number, Map<number, number[]>>();
  for (const group of groupSlots(volume, moves, (cluster) => cluster)) {
    for (const slot of slotsOf(group)) {
      const move = moves.slots.moves[slot]!;
      const slots = found.get(move) ?? new Map<number, number[]>();
      found.set(move, slots);
      const inCluster = slots.get(group.cluster);
      if (inCluster === undefined) slots.set(group.cluster, [slot]);
      else inCluster.push(slot);
    }
  }
  // What nothing seems to name is stale: the update finds that out.
  for (let move = 0; move < moves.length; move++) if (!found.has(move)) found.set(move, new Map());
  return found;
}
