/** The way of a request to its data: through a table that stays as it is until the data have been read or written (C63). */
import { Access, type RangeLocks } from '../recycler/locks.js';

/** Gives back what was taken. */
export type Release = () => void;

/**
 * Passes through the table in cluster `table` to [first, first + count), on which `access` is wanted. A release where
 * that was free, so that nothing can have changed; else a promise of one, after which the caller has to look again.
 */
export function lockBehind(
  locks: RangeLocks,
  table: number,
  first: number,
  count: number,
  access: Access,
): Release | Promise<Release> {
  const passage = locks.tryLock(table, 1, Access.passing);
  if (passage === null) return inOrder(locks, table, first, count, access);
  const data = locks.tryLock(first, count, access);
  if (data !== null) return both(passage, data);
  passage();
  return inOrder(locks, table, first, count, access);
}

async function inOrder(
  locks: RangeLocks,
  table: number,
  first: number,
  count: number,
  access: Access,
): Promise<Release> {
  const passage = await locks.lock(table, 1, Access.passing);
  return both(passage, await locks.lock(first, count, access));
}

function both(passage: Release, data: Release): Release {
  return () => {
    data();
    passage();
  };
}
