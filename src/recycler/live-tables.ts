/** Tables of the active layer that clients have in memory, and so ahead of the disk: what moves has to be told to them. */

/** A table in memory, or the part of it that lies in one cluster. */
export interface LiveTable {
  /** As they are to be on disk. */
  bytes: Uint8Array;
  /** Position in `bytes` of the first byte of the cluster. */
  from: number;
  /** The sector at this position of `bytes` is still to be written. */
  isDirtyAt: (position: number) => boolean;
}

export interface LiveTables {
  /** Finds the tables in memory by the cluster in which they lie, as they are now; mostly none or one. */
  index: () => (cluster: number) => readonly LiveTable[];
  /** The L2 table in cluster `source` lies in `destination` from now on. */
  moved: (source: number, destination: number) => void;
}

/** Where no clients are, nothing is in memory. */
export const NO_LIVE_TABLES: LiveTables = { index: () => () => [], moved: () => undefined };
