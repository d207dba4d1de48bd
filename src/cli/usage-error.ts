/** The command line is wrong. */

/** sysexits(3) EX_USAGE; EXIT_STATUS.USAGE of the library, which is not loaded for this. */
export const USAGE_STATUS = 64;

export class UsageError extends Error {
  readonly code = 'USAGE';
  readonly exitStatus = USAGE_STATUS;
}
