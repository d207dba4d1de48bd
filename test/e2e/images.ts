/** Real images on disk, made by QEMU, and what QEMU reads from them. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { seekSync } from 'fs-ext';
import { expect } from 'vitest';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import { readLayout, readOffset, type ImageLayout } from '../support/oracle-layout.js';
import { type Encryption, checkImage, qemuImg, qemuIo, secretObject } from '../support/qemu.js';

/**
 * Digest of the active layer and of each snapshot by name, as `qemu-img convert` reads them into `scratch`;
 * `source`: how it is told to open the image.
 */
export function digests(
  image: string,
  scratch = `${image}.raw`,
  source: readonly string[] = ['-f', 'qcow2', image],
): Record<string, string> {
  const result: Record<string, string> = { active: digest(source, scratch) };
  for (const { name, id } of layoutOf(image).snapshots) {
    result[`snapshot ${name}`] = digest(source, scratch, `snapshot.id=${id}`);
  }
  return result;
}

function digest(source: readonly string[], raw: string, layer?: string): string {
  const select = layer === undefined ? [] : ['-l', layer];
  qemuImg('convert', '-O', 'raw', ...select, ...source, raw);
  try {
    return hashContent(raw);
  } finally {
    fs.rmSync(raw);
  }
}

/** Of the length and all blocks that are not zero: the same for a file with holes and one without. */
function hashContent(path: string): string {
  const hash = createHash('sha1');
  const fd = fs.openSync(path, 'r');
  try {
    const { size } = fs.fstatSync(fd);
    hash.update(`length ${size}\n`);
    for (let at = nextData(fd, 0); at < size; at = nextData(fd, at)) {
      const length = fs.readSync(fd, CHUNK, 0, CHUNK.length, at);
      for (let start = 0; start < length; start += ZERO_BLOCK.length) {
        const end = Math.min(length, start + ZERO_BLOCK.length);
        if (CHUNK.compare(ZERO_BLOCK, 0, end - start, start, end) === 0) continue;
        hash.update(`${at + start}\n`).update(CHUNK.subarray(start, end));
      }
      at += length;
    }
  } finally {
    fs.closeSync(fd);
  }
  return hash.digest('hex');
}

const SEEK_DATA = 3;
const CHUNK = Buffer.allocUnsafe(1 << 20);
const ZERO_BLOCK = Buffer.alloc(4096);

/** Where the next data is, in whole blocks; Infinity where only a hole follows. */
function nextData(fd: number, from: number): number {
  try {
    const found = seekSync(fd, from, SEEK_DATA);
    return found - (found % ZERO_BLOCK.length);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENXIO') return Infinity;
    throw error;
  }
}

export function hashFile(path: string): string {
  const hash = createHash('sha1');
  const fd = fs.openSync(path, 'r');
  try {
    const buffer = Buffer.allocUnsafe(4 << 20);
    for (let length = 1; length > 0;) {
      length = fs.readSync(fd, buffer, 0, buffer.length, null);
      hash.update(buffer.subarray(0, length));
    }
  } finally {
    fs.closeSync(fd);
  }
  return hash.digest('hex');
}

export function layoutOf(image: string): ImageLayout {
  const layout = readLayout(fs.readFileSync(image));
  if (typeof layout === 'string') throw new Error(layout);
  return layout;
}

/** What must not change when nothing may be written: content, length, times, identity. */
export function fileState(path: string): Record<string, unknown> {
  const { ino, nlink, mode, uid, size, mtimeNs, blocks } = fs.statSync(path, { bigint: true });
  return { ino, nlink, mode, uid, size, mtimeNs, blocks, hash: hashFile(path) };
}

/** The first cluster, less the fields that say where tables are. */
export function fixedHeader(image: string): string {
  const layout = layoutOf(image);
  const header = Buffer.from(layout.image.subarray(0, layout.clusterSize));
  // l1_table_offset, refcount_table_offset, refcount_table_clusters, snapshots_offset
  header.fill(0, 40, 60).fill(0, 64, 72);
  if (layout.bitmaps !== null) header.fill(0, layout.bitmaps.slot, layout.bitmaps.slot + 8);
  return createHash('sha1').update(header).digest('hex');
}

/** No corruption, no leak, no cluster more than its live data needs; `hasKey`: encrypted data have moved too. */
export function expectMinimal(
  image: string,
  extraClusters = 0,
  encryption?: Encryption,
  hasKey?: boolean,
): void {
  expect(checkImage(image, encryption)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
  const bytes = fs.readFileSync(image);
  const inspection = inspect(bytes);
  expect(inspection.corruptions).toEqual([]);
  expect(inspection.staleRefcountsPastEnd).toBe(0);
  const clusters = minimalClusterCount(bytes, hasKey === undefined ? {} : { hasKey }) + extraClusters;
  expect(bytes.length / inspection.clusterSize).toBeGreaterThan(clusters - 1);
  expect(bytes.length / inspection.clusterSize).toBeLessThanOrEqual(clusters);
}

/** `qemu-img check` finds no corruption; leaks are what an interrupted run may leave. */
export function expectValid(image: string): void {
  const { corruptions, errors } = checkImage(image);
  expect({ corruptions, errors }).toEqual({ corruptions: 0, errors: 0 });
}

/** Runs commands through QEMU; what the guest discards becomes junk that keeps its bytes in the host file. */
export function guestIo(image: string, commands: readonly string[], encryption?: Encryption): void {
  const options = `${openOptions(image, encryption)},discard=unmap,pass-discard-request=off`;
  qemuIo(options, commands, [...(encryption ? secretObject(encryption) : []), '--image-opts']);
}

/** The image in the words of `--image-opts`; its key goes by the id of `secretObject`. */
function openOptions(image: string, encryption?: Encryption): string {
  const key = encryption ? `,encrypt.format=${encryption.format},encrypt.key-secret=key` : '';
  return `driver=qcow2,file.filename=${image.replaceAll(',', ',,')}${key}`;
}

/** How `digests` tells QEMU to open an encrypted image. */
export function encryptedSource(image: string, encryption: Encryption): string[] {
  return [...secretObject(encryption), '--image-opts', openOptions(image, encryption)];
}

/** A disk of 1 MiB, all written in pieces of 128 KiB, every second one discarded: about half is junk. */
export function makeHoley(image: string, options = 'cluster_size=4096'): string {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, '1M');
  const pieces = [...Array(8).keys()];
  guestIo(image, [
    ...pieces.map((piece) => `write -q -P ${piece + 1} ${piece * 128}k 128k`),
    ...pieces.filter((piece) => piece % 2 === 0).map((piece) => `discard -q ${piece * 128}k 128k`),
  ]);
  return image;
}

/** Host clusters that are not in use, by their refcounts of 16 bits. */
export function junkClusters(image: string): number[] {
  const { view, refcountTableOffset, refcountOrder, clusterCount, clusterSize } = layoutOf(image);
  expect(refcountOrder).toBe(4);
  const perBlock = clusterSize / 2;
  return [...Array(clusterCount).keys()].filter((cluster) => {
    const block = readOffset(view, refcountTableOffset + 8 * Math.floor(cluster / perBlock));
    return block === 0 || view.getUint16(block + 2 * (cluster % perBlock)) === 0;
  });
}

/** How many of the clusters have a byte that is not zero. */
export function stained(image: string, clusters: readonly number[]): number {
  const { image: bytes, clusterSize } = layoutOf(image);
  const zero = Buffer.alloc(clusterSize);
  return clusters.filter((at) => !bytes.subarray(at * clusterSize, (at + 1) * clusterSize).equals(zero))
    .length;
}

/** Overwrites bytes of an existing file. */
export function patch(image: string, at: number, bytes: Uint8Array | readonly number[]): void {
  const fd = fs.openSync(image, 'r+');
  fs.writeSync(fd, Uint8Array.from(bytes), 0, bytes.length, at);
  fs.closeSync(fd);
}
