/** Makes the images, with qemu-img and qemu-io only. */
import { randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { run } from './host.mjs';

export const CLUSTER_BYTES = 65536;
export const PIECE_BYTES = 2 ** 20;

/** A fully written image: incompressible data, 64 KiB clusters. */
export function makeFullImage(dir, sizeBytes) {
  const raw = path.join(dir, 'full.raw');
  const image = path.join(dir, 'full.qcow2');
  const fd = fs.openSync(raw, 'w');
  const buffer = Buffer.alloc(PIECE_BYTES);
  for (let at = 0; at < sizeBytes; at += PIECE_BYTES) fs.writeSync(fd, randomFillSync(buffer));
  fs.closeSync(fd);
  const options = `cluster_size=${CLUSTER_BYTES}`;
  run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-o', options, raw, image]);
  fs.rmSync(raw);
  return image;
}

/** A copy of `full` with `count` of its 1 MiB pieces discarded, scattered over the whole disk. */
export function makeDiscardedImage(full, image, sizeBytes, count, keepBlocks) {
  run('cp', ['--sparse=auto', '--reflink=auto', full, image]);
  const pieces = scatteredPieces(sizeBytes / PIECE_BYTES, count);
  const commands = pieces.map((piece) => `discard ${piece * PIECE_BYTES} ${PIECE_BYTES}\n`).join('');
  // QEMU ignores a discard unless it is told to unmap; it then punches the host file too, by default.
  const passed = `pass-discard-request=${keepBlocks ? 'off' : 'on'}`;
  const target = `driver=qcow2,discard=unmap,${passed},file.driver=file,file.discard=unmap,file.filename=${image}`;
  run('qemu-io', ['--image-opts', target], { input: commands });
}

/** The same pieces in every run: a shuffle from a fixed seed. */
function scatteredPieces(total, count) {
  const order = Array.from({ length: total }, (_, i) => i);
  let state = 0x2545f491;
  for (let i = total - 1; i > 0; i--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order.slice(0, count).sort((a, b) => a - b);
}
