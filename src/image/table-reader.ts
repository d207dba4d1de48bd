/** Reads clusters that hold tables in host order: neighbours in one read, several reads in flight. */
import type { BlockDevice } from '../device/block-device.js';
import { swapHalves } from '../format/words.js';
import { HoleFinder } from './hole-finder.js';

/** One read at most, and all that is in flight together. */
const READ_BYTES = 1 << 20;
const IN_FLIGHT = 8;
const BATCH_BYTES = 4 << 20;

/**
 * Calls `visit` once for each cluster that `clusters` yields (ascending host clusters), with its bytes, except
 * for those that are all zero in a hole of the file: `hole` is called for these. The bytes are `visit`'s to change, at a multiple of 8
 * of their buffer, and valid during the call only.
 */
export async function readTables(
  device: BlockDevice,
  clusterBytes: number,
  clusters: Iterable<number>,
  visit: (cluster: number, bytes: Uint8Array) => void,
  hole: (cluster: number) => void = () => undefined,
): Promise<void> {
  const perRead = Math.max(1, Math.floor(READ_BYTES / clusterBytes));
  const perBatch = Math.max(1, Math.floor(BATCH_BYTES / clusterBytes));
  const holes = new HoleFinder(device);
  let buffer = new Uint8Array(0);
  let batch: { first: number; count: number }[] = [];
  let batched = 0;

  const flushBatch = async () => {
    // Every byte is read into before it is looked at.
    if (buffer.length < batched * clusterBytes) {
      buffer = new Uint8Array(Buffer.allocUnsafeSlow(batched * clusterBytes).buffer);
    }
    let at = 0;
    const reads = batch.map(({ first, count }) => {
      const bytes = buffer.subarray(at, (at += count * clusterBytes));
      return { first, count, bytes };
    });
    await Promise.all(reads.map(({ first, bytes }) => device.read(bytes, first * clusterBytes)));
    for (const { first, count, bytes } of reads) {
      for (let i = 0; i < count; i++) {
        const table = bytes.subarray(i * clusterBytes, (i + 1) * clusterBytes);
        holes.hasRead(table);
        visit(first + i, table);
      }
    }
    batch = [];
    batched = 0;
  };

  for (const cluster of clusters) {
    if (holes.isHole(cluster * clusterBytes, clusterBytes)) {
      hole(cluster);
      continue;
    }
    const last = batch.at(-1);
    if (last !== undefined && last.first + last.count === cluster && last.count < perRead) last.count++;
    else {
      if (batch.length === IN_FLIGHT) await flushBatch();
      batch.push({ first: cluster, count: 1 });
    }
    if (++batched === perBatch) await flushBatch();
  }
  await flushBatch();
}

/** A table of several clusters, of 32 MiB at most, is read in pieces of this much. */
const PIECE_BYTES = 1 << 20;

/**
 * Calls `visit` for each piece of the table at `offset`, with the piece's own offset and the halves of its entries
 * in the host's order, valid during the call only; not for pieces that are holes of the file.
 */
export async function readPieces(
  device: BlockDevice,
  holes: HoleFinder,
  offset: number,
  lengthBytes: number,
  visit: (offset: number, halves: Int32Array) => void,
): Promise<void> {
  const buffer = new Uint8Array(Math.min(lengthBytes, PIECE_BYTES));
  for (let start = 0; start < lengthBytes; start += PIECE_BYTES) {
    const bytes = buffer.subarray(0, Math.min(PIECE_BYTES, lengthBytes - start));
    if (holes.isHole(offset + start, bytes.length)) continue;
    await device.read(bytes, offset + start);
    holes.hasRead(bytes);
    visit(offset + start, swapHalves(bytes));
  }
}
