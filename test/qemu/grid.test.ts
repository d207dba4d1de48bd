/**
 * The main promise over the whole grid of formats: given an image that QEMU made, compacting it leaves a valid
 * image with no leak, no excess cluster and the same content in every layer; a second run changes nothing.
 */
import fs from 'node:fs';
import { describe, expect, test } from 'vitest';
import { compact } from '../../src/index.js';
import { digests, expectMinimal, fileState, fixedHeader, guestIo, layoutOf } from '../e2e/images.js';
import { minimalClusterCount } from '../support/oracle.js';
import { readOffset, type ImageLayout } from '../support/oracle-layout.js';
import { checkImage, qemuImg, qemuIo } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();

interface Format {
  clusterBytes: number;
  refcountBits: number;
  compat: '0.10' | '1.1';
}

interface Made {
  image: string;
  /** Moved away while the image is compacted. */
  backing?: string;
}

/** An empty image, and how to write whole guest clusters of it. */
class ImageMaker {
  readonly image = directory.path('image.qcow2');

  /** `passDiscards`: the host file gets holes where the guest discards; else stale bytes stay there. */
  constructor(
    readonly format: Format,
    readonly passDiscards = false,
  ) {}

  create(clusters: number, ...options: string[]): this {
    const { clusterBytes, refcountBits, compat } = this.format;
    const all = [
      `cluster_size=${clusterBytes}`,
      `compat=${compat}`,
      `refcount_bits=${refcountBits}`,
      ...options,
    ];
    qemuImg('create', '-q', '-f', 'qcow2', '-o', all.join(), this.image, String(clusters * clusterBytes));
    return this;
  }

  io(...commands: string[]): this {
    if (this.passDiscards) qemuIo(this.image, commands, ['-d', 'unmap']);
    else guestIo(this.image, commands);
    return this;
  }

  /** `count` clusters from `first`; of large ones only the beginning, to keep the images small. */
  write(pattern: number, first: number, count: number): this {
    return this.io(...this.writes(pattern, first, count));
  }

  writes(pattern: number, first: number, count: number): string[] {
    const { clusterBytes } = this.format;
    const length = Math.min(clusterBytes, 1 << 16);
    return Array.from(
      { length: count },
      (_, at) => `write -q -P ${pattern} ${(first + at) * clusterBytes} ${length}`,
    );
  }

  command(what: string, first: number, count: number): string {
    const { clusterBytes } = this.format;
    return `${what} ${first * clusterBytes} ${count * clusterBytes}`;
  }

  img(...args: string[]): this {
    qemuImg(...args, this.image);
    return this;
  }
}

/** Clusters 0 to 15 written one by one, backwards, so that guest and host order differ; some half-filled. */
function writeScattered(maker: ImageMaker): ImageMaker {
  const { clusterBytes } = maker.format;
  const commands = [...Array(16).keys()].reverse().flatMap((at) => maker.writes(at + 1, at, 1));
  return maker.io(...commands, `write -q -P 99 ${20 * clusterBytes} ${Math.min(clusterBytes, 1 << 16) / 2}`);
}

function withHoles(maker: ImageMaker): ImageMaker {
  writeScattered(maker);
  const zeroes = maker.format.compat === '1.1' ? [maker.command('write -q -z', 5, 2)] : [];
  return maker.io(
    maker.command('discard -q', 8, 8),
    maker.command('discard -q', 1, 2),
    ...zeroes,
    ...maker.writes(77, 30, 1),
  );
}

const SCENARIOS: Record<string, (format: Format) => Made | null> = {
  plain(format) {
    return writeScattered(new ImageMaker(format).create(40));
  },

  'discarded holes'(format) {
    return withHoles(new ImageMaker(format).create(40));
  },

  'snapshots, the middle one deleted'(format) {
    if (format.refcountBits === 1) return null;
    const maker = writeScattered(new ImageMaker(format).create(40)).img('snapshot', '-c', 'a');
    // Two bits count to three: no cluster may be in all four layers.
    maker.write(50, 0, format.refcountBits === 2 ? 21 : 9).img('snapshot', '-c', 'b');
    maker.write(60, 4, 9).img('snapshot', '-c', 'c');
    return maker
      .io(maker.command('discard -q', 0, 6))
      .write(70, 12, 2)
      .img('snapshot', '-d', 'b');
  },

  'grown, so that the L1 table moved'(format) {
    const { clusterBytes } = format;
    const maker = withHoles(new ImageMaker(format, true).create(40));
    const l1Before = layoutOf(maker.image).l1Offset;
    // Half as much again as one L1 entry maps; at 512 B the L1 table has several clusters.
    const grown = Math.max(3 << 20, (clusterBytes * clusterBytes * 3) / 16);
    qemuImg('resize', '-q', maker.image, String(grown));
    maker.io(`write -q -P 88 ${grown - clusterBytes} ${Math.min(clusterBytes, 1 << 16)}`);
    expect(layoutOf(maker.image).l1Offset).not.toBe(l1Before);
    return maker;
  },

  leaked(format) {
    const maker = withHoles(new ImageMaker(format).create(40));
    leak(maker.image);
    expect(checkImage(maker.image).leaks).toBeGreaterThan(0);
    return maker;
  },

  'metadata preallocated'(format) {
    const maker = new ImageMaker(format, true).create(40, 'preallocation=metadata');
    return maker
      .write(5, 3, 2)
      .io(maker.command('discard -q', 10, 20))
      .write(6, 38, 2);
  },

  'backing file missing'(format) {
    const maker = new ImageMaker(format);
    const backing = directory.path('backing.raw');
    fs.writeFileSync(backing, Buffer.alloc(40 * format.clusterBytes, 'backing'));
    return {
      image: withHoles(maker.create(40, `backing_file=${backing}`, 'backing_fmt=raw')).image,
      backing,
    };
  },
};

/** Raises refcounts, as a crash leaves them: of a free cluster, beyond the end, and, if it can, of one in use. */
function leak(image: string): void {
  const layout = layoutOf(image);
  const bytes = Buffer.from(layout.image.subarray(0, layout.fileLength));
  const block = readOffset(layout.view, layout.refcountTableOffset);
  const bits = 2 ** layout.refcountOrder;
  const free = [...Array(layout.clusterCount).keys()].filter((at) => refcount(bytes, block, bits, at) === 0);
  for (const cluster of [...free.slice(0, 2), layout.clusterCount + 1])
    setRefcount(bytes, block, bits, cluster, 1);
  if (bits > 1) {
    const slot = firstDataEntry(layout);
    const cluster = (readOffset(layout.view, slot) % 2 ** 56) / layout.clusterSize;
    setRefcount(bytes, block, bits, cluster, 2);
    // No COPIED flag on a refcount other than 1.
    bytes[slot] = bytes[slot]! & 0x7f;
  }
  fs.writeFileSync(image, bytes);
}

/** File offset of the first L2 entry that has a host cluster. */
function firstDataEntry({ view, l1Offset, clusterSize }: ImageLayout): number {
  const l2 = readOffset(view, l1Offset) % 2 ** 56;
  for (let slot = l2; slot < l2 + clusterSize; slot += 8) {
    if (view.getUint8(slot) === 0x80) return slot;
  }
  throw new Error('no data');
}

function refcount(bytes: Buffer, block: number, bits: number, cluster: number): number {
  if (bits >= 8) return bytes[block + ((cluster + 1) * bits) / 8 - 1]!;
  return (bytes[block + Math.floor((cluster * bits) / 8)]! >> ((cluster * bits) % 8)) & (2 ** bits - 1);
}

/** Of a cluster that the first block describes, and whose count is below 256. */
function setRefcount(bytes: Buffer, block: number, bits: number, cluster: number, value: number): void {
  const old = refcount(bytes, block, bits, cluster);
  const at = bits >= 8 ? block + ((cluster + 1) * bits) / 8 - 1 : block + Math.floor((cluster * bits) / 8);
  const shift = bits >= 8 ? 0 : (cluster * bits) % 8;
  bytes[at] = (bytes[at]! & ~(old << shift)) | (value << shift);
}

async function compactAndJudge({ image, backing }: Made): Promise<void> {
  const before = { digests: digests(image), header: fixedHeader(image) };
  const bytes = fs.readFileSync(image);
  const minimal = minimalClusterCount(bytes) * layoutOf(image).clusterSize;
  if (backing !== undefined) fs.renameSync(backing, `${backing}.away`);
  const first = await compact(image, { runtimeAsserts: true });
  if (backing !== undefined) fs.renameSync(`${backing}.away`, backing);

  expect(first.outcome).toBe(fs.readFileSync(image).equals(bytes) ? 'clean' : 'compacted');
  expect(first.lengthBefore).toBe(bytes.length);
  expect(first.lengthAfter).toBe(fs.statSync(image).size);
  expect(Math.ceil(first.lengthAfter / first.clusterBytes) * first.clusterBytes).toBe(minimal);
  expectMinimal(image);
  expect({ digests: digests(image), header: fixedHeader(image) }).toEqual(before);

  const state = fileState(image);
  const second = await compact(image);
  expect({ ...second, state: fileState(image) }).toMatchObject({
    outcome: 'clean',
    bytesWritten: 0,
    barriers: 0,
    state,
  });
}

const FORMATS: Format[] = [512, 4096, 65536, 2097152].flatMap((clusterBytes) => [
  { clusterBytes, refcountBits: 16, compat: '0.10' as const },
  ...(clusterBytes < 2097152 ? [1, 2, 4, 8, 16, 32, 64] : [1, 16, 64]).map((refcountBits) => ({
    clusterBytes,
    refcountBits,
    compat: '1.1' as const,
  })),
]);

for (const [name, make] of Object.entries(SCENARIOS)) {
  describe(`compacting an image made by QEMU: ${name}`, () => {
    const formats = FORMATS.filter(({ refcountBits }) => refcountBits > 1 || !name.startsWith('snapshots'));
    test.each(formats)(
      '$clusterBytes B clusters, $refcountBits-bit refcounts, compat $compat',
      async (format) => {
        await compactAndJudge(make(format)!);
      },
    );
  });
}
