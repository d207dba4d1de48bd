/** What the library takes and returns. All lengths are bytes unless the name says otherwise. */
import type { RateLimiter } from '../device/rate-limiter.js';
import type { Stopped } from './stop.js';
import type { Threshold } from './threshold.js';

export type Phase = 'walk' | 'repair' | 'plan' | 'erase' | 'move' | 'finish';

export interface Progress {
  phase: Phase;
  /** 0..100, never falling within a run; 100 is reported once, after the final barrier. */
  percent: number;
  bytesDone: number;
  bytesTotal: number;
}

export interface CommonOptions {
  /**
   * Abort it to stop at the next barrier; what was gained is kept, and the outcome is `interrupted`, or `out-of-time`
   * where the signal's reason is a `TimeoutError`, as that of `AbortSignal.timeout` is. What only reads (`plan`,
   * `check`) has no barrier: it rejects with the signal's reason.
   */
  signal?: AbortSignal;
  /**
   * Holds reads and writes of the file to its rate, together with all other calls that were given the same one. Once
   * the signal is aborted, what is left until the barrier is not held back.
   */
  limiter?: RateLimiter;
  onProgress?: (progress: Progress) => void;
  /** Check the engine's own state after every step (slow). */
  runtimeAsserts?: boolean;
}

/** What opens an image that LUKS encrypts. */
export interface SecretOptions {
  /**
   * With it the data of such an image move too; without it they stay where they are. The bytes as QEMU takes them,
   * a newline at their end included; text as UTF-8. Other images do not need it: a notice says so.
   */
  secret?: Uint8Array | string;
}

export interface EraseOptions extends CommonOptions {
  /** Stop when this many clusters are erased; undefined erases all junk. */
  keepErased?: number;
  /** Deallocate host blocks instead of writing zeroes. */
  punch?: boolean;
}

export interface PlanOptions extends CommonOptions, SecretOptions {
  /** Leave this many erased clusters in the file for the guest's next writes; default 0. */
  keepErased?: number;
  /** Erase those by deallocating host blocks instead of writing zeroes. */
  punch?: boolean;
  /** Give up clusters that are allocated but read as zeroes; by default they stay, as the guest's preallocation. */
  dropPreallocation?: boolean;
}

export interface CompactOptions extends PlanOptions {
  /** Most bytes that are in two places at once; default 256 MiB, less when the host is nearly full. */
  roundBytes?: number;
  /**
   * `all` first mends what can be mended without losing data: without it an image that is damaged, or marked dirty or
   * corrupt, is refused. `leaks` asks for nothing more than any compaction does.
   */
  repair?: RepairWhat;
  /**
   * Leaves the image alone, not one byte written, where the plan makes the file shorter by less than this. With
   * `repair` what has to be mended is mended first.
   */
  threshold?: Threshold;
}

/** `leaks`: refcounts that are too high. `all`: whatever can be mended without losing data. */
export type RepairWhat = 'leaks' | 'all';

export interface RepairOptions extends CommonOptions {
  /** Default `all`. */
  what?: RepairWhat;
}

/** What a repair found and did. */
export interface Repairs {
  /** As `qemu-img check` counts them. */
  corruptionsFound: number;
  leaksFound: number;
  /** The refcounts were written anew from the references, to another place of the file. */
  refcountsRebuilt: boolean;
  /** COPIED flags that were set or cleared. */
  flagsChanged: number;
  marksCleared: ('dirty' | 'corrupt')[];
}

export interface RepairResult extends ImageFigures, Repairs {
  path: string;
  /** `clean`: there was nothing to repair and nothing was written. */
  outcome: 'repaired' | 'clean' | Stopped;
  what: RepairWhat;
  /** What remains: 0 unless it was interrupted. */
  corruptions: number;
  /** What remains: 0 unless it was interrupted, or only moves could free them and there was no room for these. */
  leaks: number;
  /** The first findings before the repair in words, at most 100. */
  findings: string[];
  lengthBefore: number;
  /** A little more where the new refcounts found no room before the end. */
  lengthAfter: number;
  barriers: number;
  bytesWritten: number;
  notices: string[];
  seconds: number;
}

export interface ImageFigures {
  formatVersion: 2 | 3;
  clusterBytes: number;
  virtualBytes: number;
  snapshotCount: number;
  /**
   * Clusters that have to stay where they are: the header of LUKS, and without the secret all that it encrypts, which
   * can only be read there.
   */
  pinnedClusters: number;
  /** Cluster counts as the walk found them. */
  clusters: {
    /** ceil(file length / cluster size). */
    total: number;
    live: number;
    /** Nothing refers to them; includes leaked ones. */
    junk: number;
    /** Clusters whose refcount is higher than their references, in use or not. */
    leaked: number;
  };
}

export interface PlanResult extends ImageFigures {
  path: string;
  lengthBefore: number;
  lengthAfter: number;
  clustersToMove: number;
  bytesToCopy: number;
  /** L2 tables without an entry, which a compaction releases. */
  tablesReleased: number;
  /** Clusters that are allocated but read as zeroes, and are given up (`dropPreallocation`). */
  preallocationReleased: number;
  /** How data get to their new places: the host lets two places share blocks (XFS, btrfs), or they are copied. */
  movesBy: 'sharing' | 'copying';
  /** Things the user should know, one line each: `little to reclaim: ...`, `read-only, not locked`. */
  notices: string[];
}

export interface CompactResult extends PlanResult {
  /** `clean`: there was nothing to do and nothing was written. `below-threshold`: see `bytesLeftToReclaim`. */
  outcome: 'compacted' | 'clean' | 'below-threshold' | Stopped;
  /** What had to be repaired first; null where nothing had to be, or no repair was asked for. */
  repaired: Repairs | null;
  /** Here `lengthAfter` is the file's real length at the end. */
  bytesMoved: number;
  /** What another run would make the file shorter by: 0 unless this one was stopped, or the gain passed up. */
  bytesLeftToReclaim: number;
  /** What it would copy for that. */
  bytesLeftToMove: number;
  referencesUpdated: number;
  clustersErased: number;
  leaksReclaimed: number;
  /** Leaks that only a move could free, for which the host had no room, or of clusters that are pinned. */
  leaksLeft: number;
  /** Clusters of the file beyond the least that the image needs: 0 unless no place fits a table that stands there. */
  excessClusters: number;
  rounds: number;
  barriers: number;
  /** Of `bytesMoved`, those that the host's file system let two places share: no byte of them was written. */
  bytesShared: number;
  /** All bytes written to the file, metadata included. */
  bytesWritten: number;
  /** Bytes the host had allocated for the file. */
  allocatedBefore: number;
  allocatedAfter: number;
  seconds: number;
}

export interface EraseResult extends ImageFigures {
  path: string;
  outcome: 'erased' | 'clean' | Stopped;
  /** Clusters that are erased now, those that already were holes of the host file included. */
  clustersErased: number;
  /** Clusters that another run would erase: 0 unless this one was stopped. */
  clustersLeft: number;
  /** Of these, holes that needed no write. */
  clustersAlreadyHoles: number;
  bytesWritten: number;
  /** `punch` or `write`. */
  method: 'punch' | 'write';
  leaksReclaimed: number;
  notices: string[];
  seconds: number;
}

export interface CheckResult extends ImageFigures {
  path: string;
  corruptions: number;
  /** Leaked clusters, counted as qemu-img check counts them. */
  leaks: number;
  /** The first findings in words, at most 100. */
  findings: string[];
  notices: string[];
}
