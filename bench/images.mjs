/** Makes the images, with qemu-img and qemu-io only; the same layout in every run. */
import { randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import { run } from './host.mjs';
import { throwIfInterrupted } from './interrupts.mjs';

export const CLUSTER_BYTES = 65536;
export const PIECE_BYTES = 2 ** 20;

const OPTIONS = `cluster_size=${CLUSTER_BYTES}`;

/** A fully written image: incompressible data, 64 KiB clusters. */
export async function makeFullImage(image, sizeBytes) {
  const raw = `${image}.raw`;
  await writeRaw(raw, sizeBytes, (buffer) => randomFillSync(buffer));
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-o', OPTIONS, raw, image]);
  fs.rmSync(raw);
}

/** A compressed image: of each cluster a tenth to nine tenths are random bytes, the rest zeroes. */
export async function makeCompressedImage(image, sizeBytes) {
  const raw = `${image}.raw`;
  const random = randomNumbers();
  await writeRaw(raw, sizeBytes, (buffer) => {
    buffer.fill(0);
    for (let at = 0; at < buffer.length; at += CLUSTER_BYTES) {
      const share = 0.1 + (0.8 * random()) / 2 ** 32;
      randomFillSync(buffer, at, Math.floor(CLUSTER_BYTES * share));
    }
  });
  await run('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', OPTIONS, raw, image]);
  fs.rmSync(raw);
}

async function writeRaw(raw, sizeBytes, fill) {
  const handle = await fs.promises.open(raw, 'w');
  try {
    const buffer = Buffer.alloc(PIECE_BYTES);
    for (let at = 0; at < sizeBytes; at += PIECE_BYTES) {
      throwIfInterrupted();
      fill(buffer);
      await handle.write(buffer);
    }
  } finally {
    await handle.close();
  }
}

/** A copy of `full` of which `count` pieces are discarded, scattered over the whole disk. */
export async function makeDiscardedImage(
  full,
  image,
  { sizeBytes, count, keepBlocks = false, pieceBytes = PIECE_BYTES },
) {
  await run('cp', ['--sparse=auto', '--reflink=auto', full, image]);
  const pieces = scatteredPieces(sizeBytes / pieceBytes, count);
  await guestIo(
    image,
    pieces.map((piece) => `discard ${piece * pieceBytes} ${pieceBytes}`),
    keepBlocks,
  );
}

/** Writes `pieces` of the disk and takes `count` internal snapshots, one after each equal part of the writes. */
export async function addSnapshots(image, { sizeBytes, pieces, count }) {
  const written = scatteredPieces(sizeBytes / PIECE_BYTES, pieces, 0x1f123bb5);
  for (let part = 0; part < Math.max(1, count); part++) {
    const from = Math.floor((part * pieces) / Math.max(1, count));
    const to = Math.floor(((part + 1) * pieces) / Math.max(1, count));
    const commands = written
      .slice(from, to)
      .map((piece) => `write -P ${(part % 255) + 1} ${piece * PIECE_BYTES} ${PIECE_BYTES}`);
    if (commands.length > 0) await guestIo(image, commands);
    if (count > 0) await run('qemu-img', ['snapshot', '-c', `s${part}`, image]);
  }
}

/**
 * A sparse image of which every cluster is described, with `movedBytes` of data at the end of the disk and as much
 * unused at its beginning; 0: nothing to move.
 */
export async function makeSparseImage(image, sizeBytes, movedBytes = 0) {
  const options = `${OPTIONS},preallocation=metadata`;
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, image, String(sizeBytes)]);
  const pieces = Array.from({ length: movedBytes / PIECE_BYTES }, (_, i) => i * PIECE_BYTES);
  if (pieces.length === 0) return;
  await guestIo(image, [
    ...pieces.map((at) => `write -P 7 ${sizeBytes - movedBytes + at} ${PIECE_BYTES}`),
    ...pieces.map((at) => `discard ${at} ${PIECE_BYTES}`),
  ]);
}

/** A disk of `sizeBytes`, all written, every second cluster discarded. */
export async function makeSmallImage(image, sizeBytes) {
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', OPTIONS, image, String(sizeBytes)]);
  const clusters = Array.from({ length: sizeBytes / CLUSTER_BYTES }, (_, i) => i * CLUSTER_BYTES);
  await guestIo(image, [
    ...clusters.map((at, i) => `write -P ${(i % 255) + 1} ${at} ${CLUSTER_BYTES}`),
    ...clusters.filter((_, i) => i % 2 === 0).map((at) => `discard ${at} ${CLUSTER_BYTES}`),
  ]);
}

/** QEMU ignores a discard unless it is told to unmap; it then punches the host file too, unless told not to. */
async function guestIo(image, commands, keepBlocks = false) {
  const passed = `pass-discard-request=${keepBlocks ? 'off' : 'on'}`;
  const target = `driver=qcow2,discard=unmap,${passed},file.driver=file,file.discard=unmap,file.filename=${image}`;
  const input = commands.map((command) => `${command}\n`).join('');
  const output = await run('qemu-io', ['--image-opts', target], { input });
  // qemu-io ends with status 0 whatever its commands say.
  const failed = /^.*(?:failed|error|invalid).*$/im.exec(output);
  if (failed !== null) throw new Error(`qemu-io ${image}: ${failed[0]}`);
}

/** `count` of `total` pieces, ascending: a shuffle from a fixed seed. */
function scatteredPieces(total, count, seed) {
  const order = Array.from({ length: total }, (_, i) => i);
  const random = randomNumbers(seed);
  for (let i = total - 1; i > 0; i--) {
    const j = random() % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order.slice(0, count).sort((a, b) => a - b);
}

/** Whole numbers below 2^32, the same in every run (xorshift). */
function randomNumbers(seed = 0x2545f491) {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}
