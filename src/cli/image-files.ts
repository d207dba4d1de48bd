/** What is known of the images before any of them is locked: which file each is, where it lies and what it needs. */
import fs from 'node:fs/promises';
import { constants } from 'node:fs';
import { memoryFor } from '../compactor/memory.js';
import { fileSystemKey } from '../device/reservations.js';
import type { Job } from './schedule.js';

export interface ImageFile extends Job {
  /** Only regular files have a place among file systems; the engine says what is wrong with the others. */
  isRegular: boolean;
  path: string;
  lengthBytes: number;
}

/** Looks, without opening anything: the memory of each is still 0. */
export function lookAt(paths: readonly string[]): Promise<ImageFile[]> {
  return Promise.all(paths.map(lookAtOne));
}

async function lookAtOne(path: string, index: number): Promise<ImageFile> {
  const nothing = { isRegular: false, path, lengthBytes: 0, memoryBytes: 0 };
  try {
    const { dev, ino, size, ...found } = await fs.stat(path, { bigint: true });
    const isRegular = (Number(found.mode) & constants.S_IFMT) === constants.S_IFREG;
    const file = `${String(dev)}:${String(ino)}`;
    const fileSystem = fileSystemKey(dev, await fs.statfs(path));
    return { ...nothing, isRegular, file, fileSystem, lengthBytes: Number(size) };
  } catch {
    return { ...nothing, file: `missing ${index}`, fileSystem: '' };
  }
}

export function countFileSystems(files: readonly ImageFile[]): number {
  return new Set(files.filter(({ isRegular }) => isRegular).map(({ fileSystem }) => fileSystem)).size;
}

/**
 * Reads from each header what its image needs. All are closed again before the first one is locked: closing one later
 * would drop the lock of that file.
 */
export async function estimateMemory(files: readonly ImageFile[]): Promise<void> {
  for (const file of files) {
    if (!file.isRegular) continue;
    const clusterBytes = await readClusterBytes(file.path);
    if (clusterBytes !== undefined) file.memoryBytes = memoryFor(file.lengthBytes, clusterBytes);
  }
}

/** undefined where the engine will refuse the file. */
async function readClusterBytes(path: string): Promise<number | undefined> {
  try {
    // A FIFO that has taken the file's place would be waited for.
    const file = await fs.open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(24), 0, 24, 0);
      const clusterBits = buffer.readUInt32BE(20);
      const isImage = bytesRead === 24 && buffer.readUInt32BE(0) === MAGIC;
      return isImage && clusterBits >= 9 && clusterBits <= 21 ? 2 ** clusterBits : undefined;
    } finally {
      await file.close();
    }
  } catch {
    return undefined;
  }
}

/** `QFI\xfb` */
const MAGIC = 0x514649fb;
