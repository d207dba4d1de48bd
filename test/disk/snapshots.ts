/** What the snapshots of an image hold, by the tests' own reader. */
import { createHash } from 'node:crypto';
import { guestView, readGuest } from '../support/oracle.js';

/** A digest of each. */
export function readSnapshots(bytes: Uint8Array): string[] {
  const view = guestView(bytes);
  return view.layout.snapshots.map((_, index) =>
    createHash('sha1').update(readGuest(view, index)).digest('hex'),
  );
}
