/**
 * Room of the host that work in this process may take soon, by file system: several images that are worked on at the
 * same time must not spend the same free bytes.
 */
import type { StatsFs } from 'node:fs';

const reserved = new Map<object, { fileSystem: string; bytes: number }>();

/** `owner` may take so much; this replaces what it reserved before. */
export function reserve(owner: object, fileSystem: string, bytes: number): void {
  if (bytes > 0) reserved.set(owner, { fileSystem, bytes });
  else reserved.delete(owner);
}

export function reservedByOthers(owner: object, fileSystem: string): number {
  let bytes = 0;
  for (const [other, reservation] of reserved)
    if (other !== owner && reservation.fileSystem === fileSystem) bytes += reservation.bytes;
  return bytes;
}

const BTRFS_SUPER_MAGIC = 0x9123683e;

/** The same for all files that share free room: the subvolumes of btrfs have device numbers of their own, and share. */
export function fileSystemKey(
  device: number | bigint,
  { type, blocks }: Pick<StatsFs, 'type' | 'blocks'>,
): string {
  return type === BTRFS_SUPER_MAGIC ? `btrfs of ${blocks} blocks` : String(device);
}
