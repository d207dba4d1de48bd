/** The images of the cases, each made when it is needed; those that several cases share are made once. */
import fs from 'node:fs';
import { run } from '../host.mjs';
import {
  CLUSTER_BYTES,
  PIECE_BYTES,
  addSnapshots,
  makeCompressedImage,
  makeDiscardedImage,
  makeFullImage,
  makeSmallImage,
  makeSparseImage,
} from '../images.mjs';

const SNAPSHOTS = 10;
/** Of the disk, what is written anew between them. */
const WRITTEN_SHARE = 1 / 8;
/** To compress keeps a processor busy for minutes. */
const COMPRESSED_SHARE = 1 / 4;
const LARGEST_BYTES = 2 ** 40;
const SMALL_BYTES = 2 ** 20;
const EACH_OF_MANY_BYTES = 4 * 2 ** 20;

export class ImageSet {
  #shared = new Map();

  constructor(bench, { sizeBytes, keepBlocks }) {
    this.bench = bench;
    this.sizeBytes = sizeBytes;
    this.keepBlocks = keepBlocks;
  }

  /** Stays for other cases. */
  async shared(name) {
    if (!this.#shared.has(name)) this.#shared.set(name, await this.#make(name));
    return this.#shared.get(name);
  }

  /** `work` with an image that is removed afterwards. */
  async with(name, work) {
    const image = await this.#make(name);
    const result = await work(image);
    fs.rmSync(image);
    return result;
  }

  async #make(name) {
    const image = this.bench.path(`${name}.qcow2`);
    const makers = {
      full: () => makeFullImage(image, this.sizeBytes),
      half: () => this.#discarded(image, 1 / 2),
      tail: () => this.#discarded(image, 1 / 20),
      snapshots: () => this.#withSnapshots(image),
      compressed: () => this.#compressed(image),
      metadata: () => makeSparseImage(image, Math.min(LARGEST_BYTES, 256 * this.sizeBytes)),
      small: () => makeSmallImage(image, SMALL_BYTES),
      many: () => makeSmallImage(image, EACH_OF_MANY_BYTES),
    };
    this.bench.log(`making the image of ${name}`);
    await makers[name]();
    return image;
  }

  async #discarded(image, share) {
    const { sizeBytes, keepBlocks } = this;
    const count = Math.ceil((sizeBytes / PIECE_BYTES) * share);
    await makeDiscardedImage(await this.shared('full'), image, { sizeBytes, count, keepBlocks });
  }

  async #withSnapshots(image) {
    const { sizeBytes } = this;
    await run('cp', ['--sparse=auto', '--reflink=auto', await this.shared('half'), image]);
    const pieces = Math.max(SNAPSHOTS, Math.floor((sizeBytes / PIECE_BYTES) * WRITTEN_SHARE));
    await addSnapshots(image, { sizeBytes, pieces, count: SNAPSHOTS });
  }

  async #compressed(image) {
    const sizeBytes = Math.max(8 * PIECE_BYTES, this.sizeBytes * COMPRESSED_SHARE);
    const whole = this.bench.path('whole.qcow2');
    await makeCompressedImage(whole, sizeBytes);
    await makeDiscardedImage(whole, image, {
      sizeBytes,
      count: sizeBytes / CLUSTER_BYTES / 2,
      pieceBytes: CLUSTER_BYTES,
      keepBlocks: this.keepBlocks,
    });
    fs.rmSync(whole);
  }
}
