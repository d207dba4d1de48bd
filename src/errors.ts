/** Every way the tool refuses or fails: one class, one table of codes. */

/** Code -> exit status. docs/exit-codes.md says when each occurs and what to do. */
export const EXIT_STATUS = {
  /** The command line is wrong. */
  USAGE: 64,
  /** The file cannot be opened: missing, no permission, read-only, not a regular file. */
  CANNOT_OPEN: 8,
  /** Another process (a running VM, another compaction) has the image open. */
  IN_USE: 6,
  /** Not a qcow2 file at all, or qcow version 1. */
  NOT_QCOW2: 4,
  /** A qcow2 feature that this version does not handle. */
  UNSUPPORTED: 4,
  /** The image is corrupt: `qemu-img check` would report corruptions, or a field is out of bounds. */
  CORRUPT: 5,
  /** The host's file system is full. */
  NO_SPACE: 7,
  /** The host failed a read, write, flush or truncate. */
  IO: 1,
  /** This platform lacks what is needed (file locks). */
  PLATFORM: 9,
  /** The secret opens no key slot of an image that LUKS encrypts. */
  WRONG_SECRET: 10,
  /** The socket or port to serve on is taken, or cannot be made. */
  CANNOT_LISTEN: 11,
  /** `status`, `now`: no server of ours answers there. */
  NO_SERVER: 12,
} as const;

export type ErrorCode = keyof typeof EXIT_STATUS;

export interface ErrorDetails {
  /** Where in the image: `L2 table at 0x50000, entry 17`. */
  where?: string;
  /** What the user can do about it. */
  hint?: string;
  cause?: unknown;
}

/** An expected failure. `message` is one line: what is wrong (where); what to do. */
export class QcowError extends Error {
  readonly code: ErrorCode;
  readonly where: string | undefined;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, what: string, details: ErrorDetails = {}) {
    const where = details.where === undefined ? '' : ` (${details.where})`;
    const hint = details.hint === undefined ? '' : `; ${details.hint}`;
    super(`${what}${where}${hint}`, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'QcowError';
    this.code = code;
    this.where = details.where;
    this.hint = details.hint;
  }

  /** Exit status of a command that ends with this error. */
  get exitStatus(): number {
    return EXIT_STATUS[this.code];
  }
}

/** `0x50000`: how offsets are written in every message. */
export function hex(offset: number): string {
  return `0x${offset.toString(16)}`;
}
