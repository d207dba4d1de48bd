/** What a server needs of a disk. Requests lie within the disk; many are under way at a time, by any byte. */

/** A stretch of the disk of which the same holds. */
export interface Stretch {
  offset: number;
  lengthBytes: number;
  isAllocated: boolean;
  isZero: boolean;
}

export interface ServedDisk {
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  /** What it is best written by. */
  readonly clusterBytes: number;
  /** Zeroes need no data written, where room may be given up. */
  readonly hasFastZeroes: boolean;
  read(target: Uint8Array, offset: number): Promise<void>;
  /** `source` does not change before the promise is settled. */
  write(source: Uint8Array, offset: number): Promise<void>;
  writeZeroes(offset: number, lengthBytes: number, options?: { mayUnmap?: boolean }): Promise<void>;
  discard(offset: number, lengthBytes: number): Promise<void>;
  /** What was written before the call, by any client, is durable afterwards. */
  flush(): Promise<void>;
  /** Stretches in order, without a gap; neighbours differ. With `most` they may end before the length does. */
  blockStatus(offset: number, lengthBytes: number, most?: number): Promise<Stretch[]>;
}
