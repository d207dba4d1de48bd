/**
 * Builds qcow2 images in memory, in any legal state and with any physical layout:
 * `image({ clusterBits: 9 }).write(0).snapshot('a').write(0).layout({ shuffle: true, junk: 8 }).build()`.
 */
import { deflateRawSync } from 'node:zlib';
import { Bitmap, type BitmapOptions } from './image-bitmaps.js';
import { writeOffset, type HeaderExtension, type HeaderOptions } from './image-header.js';
import { layOut, type BuiltImage, type LayoutOptions } from './image-layout.js';
import { DataUnit, ExtentUnit, ImageModel, L2Unit, type ImageFormat, type L1Table } from './image-model.js';
import { Random } from './random.js';

export type { BuiltExtent, BuiltImage, BuiltUnit, LayoutOptions } from './image-layout.js';
export type { BitmapOptions } from './image-bitmaps.js';
export type { HeaderExtension, HeaderOptions } from './image-header.js';

export interface ImageOptions extends HeaderOptions {
  /** 9 (512 bytes, the default) to 21 (2 MiB). */
  readonly clusterBits?: number;
  /** Refcounts have 2^order bits: 0 to 6, by default 4. */
  readonly refcountOrder?: number;
  readonly version?: 2 | 3;
  /** Bytes; by default four L2 tables' worth. */
  readonly virtualSize?: number;
  /** Entries of the active L1 table, when more than the virtual size needs. */
  readonly l1Size?: number;
  readonly seed?: number;
  /** L2 entries of 16 bytes; needs clusters of 16 KiB or more. */
  readonly extendedL2?: boolean;
  /** Keeps the guest's data in another file, which is not made. */
  readonly dataFile?: boolean;
}

export interface SnapshotOptions {
  /** Bytes of extra data: by default 24 in version 3, 0 in version 2; the unknown ones are random. */
  readonly extraSize?: number;
  /** Guest clusters of machine state, which only this snapshot has. */
  readonly vmStateClusters?: number;
  readonly diskSize?: number;
}

export function image(options: ImageOptions = {}): ImageBuilder {
  return new ImageBuilder(options);
}

export class ImageBuilder {
  readonly model: ImageModel;
  private readonly random: Random;
  private readonly extensions: HeaderExtension[];
  private layoutOptions: LayoutOptions = {};
  private nextId = 1;

  constructor(private readonly options: ImageOptions) {
    const clusterBits = options.clusterBits ?? 9;
    const clusterSize = 2 ** clusterBits;
    const version = options.version ?? 3;
    const l2EntrySize = options.extendedL2 === true ? 16 : 8;
    const bytesPerL2 = clusterSize * (clusterSize / l2EntrySize);
    const format: ImageFormat = {
      version,
      clusterBits,
      clusterSize,
      refcountOrder: options.refcountOrder ?? 4,
      virtualSize: options.virtualSize ?? 4 * bytesPerL2,
      l2EntrySize,
      dataFile: options.dataFile ?? false,
    };
    if (version === 2 && format.refcountOrder !== 4) {
      throw new Error('version 2 has 16-bit refcounts only');
    }
    const needed = Math.ceil(format.virtualSize / bytesPerL2);
    this.model = new ImageModel(format, Math.max(needed, options.l1Size ?? 0));
    this.random = new Random(options.seed ?? 1);
    this.extensions = [...(options.extensions ?? [])];
  }

  /** Guest clusters within the virtual size. */
  get guestClusters(): number {
    return Math.ceil(this.model.format.virtualSize / this.model.format.clusterSize);
  }

  /** Writes one guest cluster, by default random bytes; beyond the virtual size is legal. */
  write(guestCluster: number, content?: Uint8Array): this {
    this.model.setEntry(this.model.active, guestCluster, { zero: false, data: this.newData(content) });
    return this;
  }

  writeRange(first: number, count: number): this {
    for (let cluster = first; cluster < first + count; cluster++) {
      this.write(cluster);
    }
    return this;
  }

  /**
   * Stores one guest cluster compressed, by default bytes that shrink to something between a tenth
   * and nine tenths of it. With zstd the content is taken for already compressed: any bytes, fewer
   * than a cluster.
   */
  compress(guestCluster: number, content?: Uint8Array): this {
    const extent = new ExtentUnit(this.compressed(content));
    this.model.setEntry(this.model.active, guestCluster, { zero: false, data: null, extent });
    return this;
  }

  compressRange(first: number, count: number): this {
    for (let cluster = first; cluster < first + count; cluster++) {
      this.compress(cluster);
    }
    return this;
  }

  /** Makes a guest cluster read as zeroes; `allocated` keeps a host cluster, full of garbage. */
  zero(guestCluster: number, { allocated = false } = {}): this {
    if (this.model.format.version === 2) {
      throw new Error('version 2 has no zero clusters');
    }
    const data = allocated ? this.newData() : null;
    this.model.setEntry(this.model.active, guestCluster, { zero: true, data });
    return this;
  }

  /** As `write -z` does it: reads as zeroes, and keeps the host cluster that it has, if it has one. */
  zeroInPlace(guestCluster: number): this {
    const entry = this.model.entry(this.model.active, guestCluster);
    const data = entry?.extent === undefined ? (entry?.data ?? null) : null;
    this.model.setEntry(this.model.active, guestCluster, { zero: true, data });
    return this;
  }

  /** As `write`, but of an extended entry with these bitmaps; neither bit set: preallocated, or backed. */
  writeSubclusters(guestCluster: number, subclusters: { zero: number; allocated: number }): this {
    const entry = { zero: false, data: this.newData(), subclusters };
    this.model.setEntry(this.model.active, guestCluster, entry);
    return this;
  }

  /** Unallocates a guest cluster; the L2 table stays, even when nothing is left in it. */
  discard(guestCluster: number): this {
    this.model.setEntry(this.model.active, guestCluster, null);
    return this;
  }

  /** Lets a second guest cluster of the active layer refer to the first one's host cluster. */
  alias(from: number, to: number): this {
    const entry = this.model.entry(this.model.active, from);
    if (entry === undefined || (entry.data === null && entry.extent === undefined)) {
      throw new Error(`guest cluster ${from} has no host cluster`);
    }
    this.model.setEntry(this.model.active, to, entry);
    return this;
  }

  snapshot(name: string | Uint8Array, options: SnapshotOptions = {}): this {
    const { format, active } = this.model;
    const l1 = active.clone();
    const vmStateClusters = options.vmStateClusters ?? 0;
    const vmStateSize = Math.max(0, vmStateClusters * format.clusterSize - 100);
    const firstState = Math.ceil(this.guestClusters / this.model.entriesPerL2) * this.model.entriesPerL2;
    this.model.snapshots.push({
      id: String(this.nextId++),
      name: typeof name === 'string' ? Buffer.from(name) : name,
      l1,
      vmStateSize,
      extra: this.snapshotExtra(
        options.extraSize ?? (format.version === 3 ? 24 : 0),
        vmStateSize,
        options.diskSize ?? format.virtualSize,
      ),
    });
    for (let index = 0; index < vmStateClusters; index++) {
      this.model.setEntry(l1, firstState + index, { zero: false, data: this.newData() });
    }
    return this;
  }

  /** `interrupted`: as a crash leaves it, gone from the snapshot table, its references still counted. */
  deleteSnapshot(name: string, { interrupted = false } = {}): this {
    const index = this.model.snapshots.findIndex((snapshot) =>
      Buffer.from(snapshot.name).equals(Buffer.from(name)),
    );
    const [deleted] = index < 0 ? [] : this.model.snapshots.splice(index, 1);
    if (deleted === undefined) {
      throw new Error(`no snapshot ${name}`);
    }
    if (interrupted) {
      this.model.ghosts.push(deleted.l1);
    }
    return this;
  }

  /** The active layer becomes what the snapshot is. */
  revert(name: string): this {
    const found = this.model.snapshots.find((snapshot) =>
      Buffer.from(snapshot.name).equals(Buffer.from(name)),
    );
    if (found === undefined) {
      throw new Error(`no snapshot ${name}`);
    }
    const size = Math.max(this.model.active.size, found.l1.size);
    this.model.active = found.l1.clone();
    this.model.active.size = size;
    return this;
  }

  /**
   * As a crash leaves a move of a data cluster, or of a compressed one, that several L2 tables share:
   * some lead to the copy, some to the original, both with the full refcount. False when nothing
   * shares the cluster.
   */
  halfMoveData(guestCluster: number, layer: L1Table = this.model.active): boolean {
    const entry = this.model.entry(layer, guestCluster);
    const unit = entry?.extent ?? entry?.data ?? null;
    const count = unit === null ? 0 : (this.model.refcounts().get(unit) ?? 0);
    const slots: [L2Unit, number][] = [];
    for (const table of this.model.distinctL2().keys()) {
      for (const [index, entry] of table.entries) {
        if ((entry.extent ?? entry.data) === unit) {
          slots.push([table, index]);
        }
      }
    }
    if (unit === null || slots.length < 2) {
      return false;
    }
    const copy = unit instanceof ExtentUnit ? new ExtentUnit(unit.content) : new DataUnit(unit.content);
    unit.refcountAtLeast = count;
    copy.refcountAtLeast = count;
    for (const [table, index] of this.random
      .shuffle(slots)
      .slice(0, this.random.between(1, slots.length - 1))) {
      const zero = table.entries.get(index)?.zero ?? false;
      const moved = copy instanceof ExtentUnit ? { zero, data: null, extent: copy } : { zero, data: copy };
      table.entries.set(index, moved);
    }
    return true;
  }

  /** The same for an L2 table that several L1 tables share; its data clusters keep their counts. */
  halfMoveL2(l1Index: number, layer: L1Table = this.model.active): boolean {
    const table = layer.tables.get(l1Index);
    const sharing = this.model.layers().filter((l1) => l1.tables.get(l1Index) === table);
    if (table === undefined || sharing.length < 2) {
      return false;
    }
    const copy = new L2Unit(table.entries);
    const count = this.model.refcounts().get(table) ?? 0;
    table.refcountAtLeast = count;
    copy.refcountAtLeast = count;
    for (const l1 of this.random.shuffle(sharing).slice(0, this.random.between(1, sharing.length - 1))) {
      l1.tables.set(l1Index, copy);
    }
    return true;
  }

  /** A persistent bitmap of the active layer. */
  bitmap(name: string, options: BitmapOptions = {}): this {
    if (this.model.format.version === 2) {
      throw new Error('version 2 has no bit that says whether bitmaps are valid');
    }
    this.model.bitmaps.push(new Bitmap(name, this.model.format, this.random, options));
    return this;
  }

  /** An extension of a type that nobody knows, as later versions may add. */
  extension(type: number, data: Uint8Array): this {
    this.extensions.push({ type, data });
    return this;
  }

  /** How the file is laid out; later calls add to earlier ones. */
  layout(options: LayoutOptions): this {
    this.layoutOptions = { ...this.layoutOptions, ...options };
    return this;
  }

  build(): Uint8Array {
    return this.buildWithMap().bytes;
  }

  /** Also says what went where, for tests that damage or follow a certain structure. */
  buildWithMap(): BuiltImage {
    const header = { ...this.options, extensions: this.extensions };
    return layOut(this.model, header, this.layoutOptions, new Random((this.options.seed ?? 1) + 0x5eed));
  }

  /** State size, disk size, instruction count (none), then bytes of some later version. */
  private snapshotExtra(size: number, vmStateSize: number, diskSize: number): Uint8Array {
    const known = Buffer.alloc(24, 0xff);
    writeOffset(known, vmStateSize, 0);
    writeOffset(known, diskSize, 8);
    return Buffer.concat([known, this.random.bytes(Math.max(0, size - 24))]).subarray(0, size);
  }

  private compressed(content?: Uint8Array): Uint8Array {
    const { clusterSize } = this.model.format;
    let result: Uint8Array;
    if (this.options.compressionType === 'zstd') {
      result = content ?? this.random.bytes(this.compressedSize());
    } else {
      const whole = new Uint8Array(clusterSize);
      whole.set(content ?? this.random.bytes(this.compressedSize()));
      // The window of 4 KiB that QEMU's own inflate has.
      result = deflateRawSync(whole, { windowBits: 12 });
    }
    if (result.length === 0 || result.length >= clusterSize) {
      throw new Error(`${result.length} compressed bytes in a cluster of ${clusterSize}`);
    }
    return result;
  }

  private compressedSize(): number {
    const { clusterSize } = this.model.format;
    return this.random.between(Math.ceil(clusterSize * 0.07), Math.floor(clusterSize * 0.87));
  }

  private newData(content?: Uint8Array): DataUnit {
    const { clusterSize } = this.model.format;
    if (content === undefined) {
      return new DataUnit(this.random.bytes(clusterSize));
    }
    const whole = new Uint8Array(clusterSize);
    whole.set(content);
    return new DataUnit(whole);
  }
}
