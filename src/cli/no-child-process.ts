/**
 * Stands in the bundle for node:child_process, which commander needs for subcommands that are programs of
 * their own: we have none, and loading it would cost a tenth of a start.
 */

export function spawn(): never {
  throw new Error('there are no subcommands');
}
