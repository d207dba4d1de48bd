/** Whether others get turns of the event loop. */
import { onTestFinished } from 'vitest';

/** Turns of the event loop from now on. */
export function countTurns(): () => number {
  let turns = 0;
  let handle = setImmediate(function tick() {
    turns++;
    handle = setImmediate(tick);
  });
  onTestFinished(() => clearImmediate(handle));
  return () => turns;
}
