/** How a plan is cut into rounds, and how long the file must stay while they run. */
import { indexIn } from './moves.js';
import type { Plan } from './planner.js';

/** Most bytes of a round, unless the caller says otherwise. */
export const DEFAULT_ROUND_BYTES = 256 << 20;

/** What steps aside may go beyond the goal: the file keeps the places of the rounds that are still to come. */
export function reachOf(destinations: Uint32Array, atLeast: number): number {
  return destinations.reduce((end, cluster) => Math.max(end, cluster + 1), atLeast);
}

/** Stretches of moves, the last first, of at most `perRound` moves unless a run is longer. */
export function cutRounds(plan: Plan, perRound: number): { from: number; to: number }[] {
  const inside = new Uint8Array(plan.sources.length + 1);
  for (const [first, count] of plan.runStarts) {
    const at = indexIn(plan.sources, first);
    if (at >= 0) inside.fill(1, at + 1, at + count);
  }
  const rounds: { from: number; to: number }[] = [];
  for (let to = plan.sources.length; to > 0;) {
    let from = Math.max(0, to - perRound);
    while (from > 0 && inside[from] === 1) from--;
    rounds.push({ from, to });
    to = from;
  }
  return rounds;
}
