/** Errors of the host in the shape that Node gives them: made here, or put into words for the user. */

import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

const HOST_FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** An error as Node's fs would raise it: `EIO: i/o error, write` with `code`, `errno` and `syscall`. */
export function systemError(code: string, syscall: string): NodeJS.ErrnoException {
  const number = errnoOf(code);
  const error: NodeJS.ErrnoException = new Error(
    `${code}: ${describe(number) ?? 'system error'}, ${syscall}`,
  );
  error.code = code;
  error.syscall = syscall;
  if (number !== undefined) error.errno = -number;
  return error;
}

/** The code of a host's error (`ENOSPC`), or undefined where `error` is something else. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** The host cannot hold more: its disk, the owner's quota or the longest file of its file system is reached. */
export function isHostFull(error: unknown): boolean {
  return HOST_FULL.has(errorCode(error) ?? '');
}

/** `no such file or directory (ENOENT)`: the host's reason without call and path. */
export function systemReason(error: unknown): string {
  const code = errorCode(error);
  const reason = code === undefined ? undefined : describe(errnoOf(code));
  if (reason !== undefined && code !== undefined) return `${reason} (${code})`;
  return error instanceof Error ? error.message : String(error);
}

/** Name of a positive errno as C gives it, for this host. */
export function errnoName(errno: number): string {
  const found = Object.entries(constants.errno).find(([, value]) => value === errno);
  return found === undefined ? `errno ${String(errno)}` : found[0];
}

function errnoOf(code: string): number | undefined {
  return Object.entries(constants.errno).find(([name]) => name === code)?.[1];
}

function describe(errno: number | undefined): string | undefined {
  return errno === undefined ? undefined : getSystemErrorMap().get(-errno)?.[1];
}
