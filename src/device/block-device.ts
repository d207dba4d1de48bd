/** The narrow interface between the engine and whatever holds the image's bytes. */

/** Bytes that reach the disk whole or not at all (I2); what is switched atomically lies in one of these. */
export const SECTOR = 512;

/** A stretch of bytes [start, end) of the file. */
export interface ByteRange {
  start: number;
  end: number;
}

/**
 * Devices stack: a Recording or Fault device wraps a File or Memory device.
 * Offsets and lengths are bytes. Every method rejects with the host's error (`code` = EIO, ENOSPC, ...).
 */
export interface BlockDevice {
  /** Bytes in the file now. */
  readonly lengthBytes: number;
  /** Fills `target` from `offset`; bytes beyond the end of the file read as zeroes. */
  read(target: Uint8Array, offset: number): Promise<void>;
  /** Writes all of `source` at `offset`, extending the file where needed. Not durable before `flush`. */
  write(source: Uint8Array, offset: number): Promise<void>;
  /** Barrier: resolves when everything written or truncated before the call is durable (fdatasync). */
  flush(): Promise<void>;
  /** Sets the file's length; bytes that it adds read as zeroes. */
  truncate(lengthBytes: number): Promise<void>;

  /**
   * First stretch at or after `offset` that the host has allocated, clipped to `end`; null where all of
   * [offset, end) is a hole. A host that does not know its holes answers the whole range.
   */
  dataExtent(offset: number, end: number): ByteRange | null;
  /** Bytes of the host's blocks: less than a whole one is never deallocated, only zeroed. */
  readonly blockBytes: number;
  /** True where `punch` can work on this host; decided once, by a probe that changes the file's times only. */
  readonly canPunch: boolean;
  /** Deallocates [offset, offset + length): it reads as zeroes afterwards. Rejects where the host cannot. */
  punch(offset: number, lengthBytes: number): Promise<void>;
  /**
   * True where `share` may work on this host; decided once, by a probe that changes nothing. Where it then turns out
   * not to, this becomes false.
   */
  readonly canShare: boolean;
  /**
   * Lets [to, to + length) have the blocks of [from, from + length), which takes no copying and no room: it reads as
   * that did at the call. Durable like a write. False where the host cannot do it for these bytes (which are no whole
   * blocks, or reach beyond the end): then [to, to + length) holds anything.
   */
  share(from: number, to: number, lengthBytes: number): Promise<boolean>;
  /**
   * Bytes free on the host's file system, less what other devices of this process have reserved there; Infinity where
   * that is not known.
   */
  freeBytes(): Promise<number>;
  /** So much more room of the host its user may take: instead of what it reserved before, until it is closed. */
  reserve(bytes: number): void;
  /** Bytes that the host has allocated for the file. */
  allocatedBytes(): number;
  close(): Promise<void>;
}
