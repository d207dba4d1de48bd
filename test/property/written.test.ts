/** How much is written for what must move: hardly more than that, whatever the image. */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Kind } from '../../src/image/host-clusters.js';
import { openImage } from '../../src/image/image.js';
import { walk } from '../../src/image/walk.js';
import { randomImage } from '../support/random-image.js';

const FIRST = 1_000;
const COUNT = 200;
const CONTENT: readonly number[] = [Kind.data, Kind.bitmapData, Kind.compressed];

/** Bytes of tables, refcounts and the header. */
async function metadataOf(bytes: Uint8Array): Promise<number> {
  const image = await openImage(new MemoryDevice(bytes));
  const { clusters } = await walk(image);
  let count = 0;
  for (let cluster = 0; cluster < image.fileClusters; cluster++) {
    if (clusters.refs[cluster]! > 0 && !CONTENT.includes(clusters.kind(cluster))) count++;
  }
  return count * image.header.clusterBytes;
}

// In the usual clusters of 64 KiB: a sector, the least that a changed entry takes, is much of a cluster of 512 bytes.
// Without compressed clusters: of those hardly more than their entries may have to move.
test(`bytes written are at most 1.02 x what must move + 5 % of the metadata, seeds from ${FIRST}, ${COUNT} of them`, async () => {
  const beyond: number[] = [];
  let moving = 0;
  for (let seed = FIRST; seed < FIRST + COUNT; seed++) {
    const { bytes } = randomImage(seed, { clusterBits: 16, compressed: false });
    const metadata = await metadataOf(bytes);
    const { bytesToCopy, bytesWritten } = await compactDevice(new MemoryDevice(bytes));
    if (bytesToCopy > 0) moving++;
    if (bytesWritten > 1.02 * bytesToCopy + 0.05 * metadata) {
      beyond.push(seed);
      console.log(`seed ${seed}: written ${bytesWritten}, must move ${bytesToCopy}, metadata ${metadata}`);
    }
  }
  expect(moving).toBeGreaterThan(COUNT / 2);
  expect(beyond).toEqual([]);
});
