/** What the work in the background has to do with. */
import type { Clock } from '../../device/rate-limiter.js';
import type { Recycler } from '../../recycler/recycler.js';
import type { Allocator } from '../allocator.js';
import type { Flusher } from '../flusher.js';
import type { Tables } from '../tables.js';

export interface BackgroundContext {
  readonly recycler: Recycler;
  readonly tables: Tables;
  readonly allocator: Allocator;
  readonly flusher: Flusher;
  readonly clock: Clock;
  /** Clusters that are to be ready for new data, beyond the last in use where need be. */
  readonly keepErased: number;
  /** Bytes that a round moves at most. */
  readonly roundBytes: number;
}
