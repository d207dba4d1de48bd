/** What the work on the requests of one client needs. */
import type { Share } from './budget.js';
import { type BufferPool, roomOf } from './buffer-pool.js';
import type { Terms } from './haggling.js';
import type { Output } from './output.js';
import type { ServedDisk } from './served-disk.js';
import type { Traffic } from './traffic.js';
import type { Work } from './work.js';

export interface WorkContext {
  disk: ServedDisk;
  terms: Terms;
  output: Output;
  work: Work;
  share: Share;
  pool: BufferPool;
  traffic: Traffic;
  /** The disk failed a request. */
  onFailure: (error: unknown) => void;
  /** Ends the connection at once. */
  cut: () => void;
  /** That a client has to take its last answers, once it asks for nothing more. */
  farewellMs: number;
  /** It has ended, by whom ever: no answer arrives any more. */
  isCut: () => boolean;
}

/** A buffer and the room that was taken for it are free again. */
export function giveBack({ pool, share }: WorkContext, buffer: Buffer): void {
  share.give(roomOf(buffer));
  pool.give(buffer);
}
