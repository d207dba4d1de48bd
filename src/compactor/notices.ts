/** What the user should know beside the figures, one line each. */

import type { MeteredDevice } from '../device/metered-device.js';

/** Below this share of the file there is little to reclaim. */
const LITTLE = 0.01;

/** Said where nothing was asked to stay: a pool is no sign of a guest that does not discard. */
export function littleToReclaim(
  keepErased: number,
  lengthBefore: number,
  lengthAfter: number,
  live: number,
  total: number,
): string[] {
  if (keepErased > 0 || lengthBefore - lengthAfter > lengthBefore * LITTLE) return [];
  return [
    `little to reclaim: ${live} of ${total} clusters are in use; what the guest deleted stays in use until it is ` +
      'discarded (run `fstrim -av` in the guest, with the disk attached with discard=unmap)',
  ];
}

/** The layout defeats the planner, which is no fault of the image and no lack of discarding in the guest. */
export function excessRemains(excess: number): string[] {
  if (excess === 0) return [];
  return [
    `${excess} cluster${excess === 1 ? '' : 's'} beyond the goal remain${excess === 1 ? 's' : ''}: no place fits the ` +
      'tables or the compressed data that stand there; the image is valid, only longer than it could be',
  ];
}

/** Refcounts that only a move can put right, and no room for one, or a cluster that may not move. */
export function leaksRemain(leaks: number, pinnedClusters: number, hasKey: boolean): string[] {
  if (leaks === 0) return [];
  const why =
    pinnedClusters > 0 && !hasKey
      ? 'what LUKS encrypts cannot move without its key: `--secret-file` gives it, or `--repair` puts it right in place'
      : 'there was no room for one; free some space on the host and run it again';
  return [
    `${leaks} cluster${leaks === 1 ? ' keeps a refcount that is' : 's keep refcounts that are'} too high: only a move ` +
      `puts that right, and ${why}`,
  ];
}

/** Why the file of an encrypted image stays longer than what is live in it. */
export function pinnedRemain(pinnedClusters: number, junkClusters: number, hasKey: boolean): string[] {
  if (junkClusters === 0) return [];
  const stay = `${junkClusters} unused cluster${junkClusters === 1 ? ' stays' : 's stay'} in the file`;
  const punch = '`--erase-only --punch` gives the blocks of unused ones back to the host';
  if (hasKey) return [`${stay}, since the header of LUKS behind them keeps its place; ${punch}`];
  return [
    `${stay}: what LUKS encrypts can only be read where it lies without its key, so ${pinnedClusters} clusters keep ` +
      `their places; with the secret in \`--secret-file\` they move too; ${punch}`,
  ];
}

/** What holes of the host file read as is noise that the guest may rely on: with its key it is written out. */
export function holesFilled(hasKey: boolean, allocatedBefore: number, allocatedAfter: number): string[] {
  const more = allocatedAfter - allocatedBefore;
  if (!hasKey || more < LITTLE_BYTES) return [];
  return [`the file takes ${Math.ceil(more / 2 ** 20)} MiB more of the host's disk: ${WHY_HOLES}`];
}

/** The same before it is done. `holeBytes`: of what moves. */
export function holesToFill(hasKey: boolean, holeBytes: number): string[] {
  if (!hasKey || holeBytes < LITTLE_BYTES) return [];
  return [`up to ${Math.ceil(holeBytes / 2 ** 20)} MiB more of the host's disk may be taken: ${WHY_HOLES}`];
}

const LITTLE_BYTES = 1 << 20;
const WHY_HOLES =
  'encrypted clusters that are preallocated, and holes of the file, have to be written out where they move';

export const SECRET_NOT_NEEDED =
  'a secret was given, but nothing in this image is encrypted with LUKS: it is not needed';

/**
 * Whether to punch where the host can. That is asked when there is something to punch, since the question
 * changes the times of the file; the notice comes where the answer is no.
 */
export function decidePunch(asked: boolean | undefined, device: MeteredDevice, notices: string[]): boolean {
  if (asked !== true) return false;
  device.onCannotPunch = () => notices.push(CANNOT_PUNCH);
  return true;
}

const CANNOT_PUNCH =
  'the host file system (or a missing koffi package) cannot deallocate blocks: zeroes are written instead of punching';
