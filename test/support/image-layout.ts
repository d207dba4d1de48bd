/** Places the parts of a test image in a file, in any order and with any waste, and writes the bytes. */
import { Bitmap, encodeBitmapDirectory, encodeBitmapTable } from './image-bitmaps.js';
import { encodeHeader, encodeSnapshotTable, writeOffset, type HeaderOptions } from './image-header.js';
import { compressedDescriptor, packExtents, Stream, type CompressedOptions } from './compressed-layout.js';
import type { DataUnit, ExtentUnit, ImageModel, L1Table, L2Unit } from './image-model.js';
import { encryptSectors, luksHeader } from './luks.js';
import type { Random } from './random.js';

export interface LayoutOptions extends CompressedOptions {
  /** Places everything but the header at random. */
  readonly shuffle?: boolean;
  /** Has the last word on the order of everything but the header and what `...AtEnd` adds. */
  readonly arrange?: (units: readonly BuiltUnit[]) => readonly BuiltUnit[];
  /** Scattered clusters with refcount 0. */
  readonly junk?: number;
  /** One run of so many clusters with refcount 0. */
  readonly gap?: number;
  /** Scattered clusters that have a refcount and no reference. */
  readonly leaks?: number;
  readonly junkAtEnd?: number;
  readonly leaksAtEnd?: number;
  /** Clusters in use whose refcount is higher than their references. */
  readonly overcounted?: number;
  /** Lets the header and the refcount structures be among them. */
  readonly overcountRefcounts?: boolean;
  /** Leaves holes in the refcount table where a whole block would be zero. */
  readonly sparseRefcountTable?: boolean;
  /** Blocks that cover only what is past the end of the file. */
  readonly blocksPastEnd?: number;
  readonly extraRefcountTableClusters?: number;
  /** Refcounts other than 0 past the end of the file, as far as there are blocks for them. */
  readonly staleCounts?: number;
  /** Ends the file within the last cluster; the rest of it reads as zeroes. */
  readonly partialTail?: boolean;
  /**
   * Puts a stream of compressed clusters last, and ends the file at the very byte where its last
   * extent ends, mostly within a sector, as `qemu-img convert -c` does.
   */
  readonly compressedTail?: boolean;
  /** Junk is zeroes; otherwise random bytes, or copies of the image's own tables. */
  readonly zeroJunk?: boolean;
  /** Random bytes wherever their value means nothing: after tables, and in the header cluster. */
  readonly garbageTails?: boolean;
  /** COPIED at random where it means nothing: in tables that only snapshots reach. */
  readonly strayCopied?: boolean;
}

export interface BuiltUnit {
  /** `L1`, `L1 of 2`, `L2 active:0`, `data 1:17` (snapshot 1, guest cluster 17), `compressed 3`, `refcount block 0`, `bitmap table NAME`, `bits NAME:0`, `junk`. */
  readonly name: string;
  readonly clusters: number;
  /** The first host cluster, once it is placed. */
  readonly at: number;
}

export interface BuiltExtent {
  /** Its first place: `active:5`, `1:17`. */
  readonly name: string;
  /** Bytes. */
  readonly offset: number;
  /** Bytes of compressed data, without what the last sector holds after them. */
  readonly length: number;
  /** What it adds to the refcount of each host cluster that it touches: the paths to it. */
  readonly refcount: number;
}

export interface BuiltImage {
  readonly bytes: Uint8Array;
  readonly units: readonly BuiltUnit[];
  /** The compressed clusters that are not dead bytes, in the order of the file. */
  readonly extents: readonly BuiltExtent[];
  /** The host cluster of the unit with this name. */
  readonly where: (name: string) => number;
}

type Part = L1Table | L2Unit | DataUnit | Bitmap | Stream | null;

class Unit implements BuiltUnit {
  at = 0;

  constructor(
    readonly name: string,
    readonly clusters: number,
    public refcount = 1,
    readonly part: Part = null,
  ) {}

  refcountOf(cluster: number): number {
    return this.part instanceof Stream ? (this.part.refcounts[cluster] ?? 0) : this.refcount;
  }
}

export function layOut(
  model: ImageModel,
  header: HeaderOptions,
  options: LayoutOptions,
  random: Random,
): BuiltImage {
  return new Layout(model, header, options, random).build();
}

class Layout {
  private readonly clusterSize: number;
  private readonly entriesPerBlock: number;
  private readonly header = new Unit('header', 1);
  private readonly refcountTable: Unit;
  private readonly snapshotTable: Unit | null;
  private readonly encryptionHeader: Unit | null;
  private readonly snapshotTableLength: number;
  private readonly bitmapDirectory: Unit | null;
  private readonly bitmapDirectoryLength: number;
  private readonly blocks = new Map<number, Unit>();
  private readonly byPart = new Map<Part, Unit>();
  private readonly byExtent = new Map<ExtentUnit, Unit>();
  private readonly ghosts: Unit[] = [];
  private readonly units: Unit[];
  private readonly clusterCount: number;
  private readonly counts: Float64Array;
  private readonly staleCounts = new Map<number, number>();
  private image = Buffer.alloc(0);

  constructor(
    private readonly model: ImageModel,
    private readonly headerOptions: HeaderOptions,
    private readonly options: LayoutOptions,
    private readonly random: Random,
  ) {
    this.clusterSize = model.format.clusterSize;
    this.entriesPerBlock = (this.clusterSize * 8) / 2 ** model.format.refcountOrder;
    this.snapshotTableLength = encodeSnapshotTable(model.snapshots, []).length;
    this.snapshotTable =
      this.snapshotTableLength === 0
        ? null
        : new Unit('snapshot table', this.clustersFor(this.snapshotTableLength));

    this.bitmapDirectoryLength = encodeBitmapDirectory(model.bitmaps, []).length;
    this.bitmapDirectory =
      this.bitmapDirectoryLength === 0
        ? null
        : new Unit('bitmap directory', this.clustersFor(this.bitmapDirectoryLength));

    this.encryptionHeader = headerOptions.encryption === 2 ? new Unit('LUKS header', LUKS_CLUSTERS) : null;

    const streams = this.streamUnits();
    const tail = options.compressedTail === true ? streams.splice(-1) : [];
    const inside = this.modelUnits(streams);
    const atEnd = [
      ...units('junk', options.junkAtEnd, 0),
      ...units('leak', options.leaksAtEnd, () => this.leakedCount()),
    ];
    if (options.shuffle === true) {
      random.shuffle(atEnd);
    }
    atEnd.push(...tail);
    const others = 1 + totalClusters(inside) + totalClusters(atEnd);
    this.refcountTable = this.addRefcountStructures(others);
    inside.unshift(this.refcountTable, ...this.blocks.values());
    this.units = this.place(inside, atEnd);
    this.clusterCount = totalClusters(this.units);
    this.counts = new Float64Array(this.clusterCount);
  }

  build(): BuiltImage {
    this.settleCounts();
    this.image = Buffer.alloc(this.clusterCount * this.clusterSize);
    for (const unit of this.units) {
      this.image.set(this.contentOf(unit), unit.at * this.clusterSize);
    }
    this.fillJunk();
    const units = this.units;
    return {
      bytes: Uint8Array.from(this.image.subarray(0, this.fileLength())),
      units,
      extents: this.builtExtents(),
      where: (name) => {
        const found = units.find((unit) => unit.name === name);
        if (found === undefined) {
          throw new Error(`no ${name}; there are: ${units.map((unit) => unit.name).join(', ')}`);
        }
        return found.at;
      },
    };
  }

  private clustersFor(length: number): number {
    return Math.ceil(length / this.clusterSize);
  }

  private leakedCount(): number {
    const high = Math.min(this.model.maxRefcount, 0xffffffff);
    return this.random.chance(0.1) ? high : Math.min(this.random.between(1, 3), high);
  }

  private streamUnits(): Unit[] {
    const { model, options, random } = this;
    const refcounts = model.refcounts();
    const extents = [...model.distinctExtents().keys()];
    if (options.shuffle === true) {
      random.shuffle(extents);
    }
    const streams = packExtents(
      extents.map((extent) => [extent, refcounts.get(extent) ?? 0]),
      model.format,
      options,
      random,
    );
    const result: Unit[] = [];
    for (const [index, stream] of streams.entries()) {
      const name = stream.isDead ? 'junk' : `compressed ${index}`;
      const unit = new Unit(name, stream.refcounts.length, stream.isDead ? 0 : 1, stream);
      for (const extent of stream.starts.keys()) {
        this.byExtent.set(extent, unit);
      }
      result.push(unit);
    }
    return result;
  }

  private modelUnits(streams: readonly Unit[]): Unit[] {
    const { model, options } = this;
    const refcounts = model.refcounts();
    const result: Unit[] = [];
    const add = (name: string, clusters: number, part: Part, refcount = 1): Unit => {
      if (refcount > model.maxRefcount) {
        throw new Error(`${name} has ${refcount} references, more than its refcount can hold`);
      }
      const unit = new Unit(name, clusters, refcount, part);
      this.byPart.set(part, unit);
      result.push(unit);
      return unit;
    };
    if (model.active.size > 0) {
      add('L1', this.clustersFor(model.active.size * 8), model.active);
    }
    if (this.snapshotTable !== null) {
      result.push(this.snapshotTable);
    }
    if (this.encryptionHeader !== null) {
      result.push(this.encryptionHeader);
    }
    if (this.bitmapDirectory !== null) {
      result.push(this.bitmapDirectory);
    }
    for (const bitmap of model.bitmaps) {
      add(`bitmap table ${bitmap.name}`, this.clustersFor(bitmap.entries.length * 8), bitmap);
      for (const [index, bits] of bitmap.entries.entries()) {
        if (typeof bits !== 'string') {
          add(`bits ${bitmap.name}:${index}`, 1, bits);
        }
      }
    }
    for (const { id, l1 } of model.snapshots) {
      add(`L1 of ${id}`, this.clustersFor(l1.size * 8), l1);
    }
    for (const l1 of model.ghosts) {
      this.ghosts.push(add(`leaked L1 ${this.ghosts.length}`, this.clustersFor(l1.size * 8), l1));
    }
    const data = model.distinctData();
    for (const [table, name] of model.distinctL2()) {
      add(`L2 ${name}`, 1, table, refcounts.get(table));
      for (const entry of table.entries.values()) {
        const dataName = entry.data === null ? undefined : data.get(entry.data);
        if (
          entry.data !== null &&
          dataName !== undefined &&
          data.delete(entry.data) &&
          !model.format.dataFile
        ) {
          add(`data ${dataName}`, 1, entry.data, refcounts.get(entry.data));
        }
      }
    }
    result.push(...streams);
    this.scatter(result, [
      ...units('junk', options.junk, 0),
      ...units('leak', options.leaks, () => this.leakedCount()),
      ...(options.gap === undefined ? [] : [new Unit('junk', options.gap, 0)]),
    ]);
    return result;
  }

  private scatter(into: Unit[], what: readonly Unit[]): void {
    for (const unit of what) {
      into.splice(this.random.int(into.length + 1), 0, unit);
    }
  }

  /** As many blocks as the file needs with them in it, and the table for them. */
  private addRefcountStructures(others: number): Unit {
    const { options } = this;
    let blockCount = 1;
    let tableClusters: number;
    const past: number[] = [];
    for (;;) {
      past.length = 0;
      for (let index = 0; index < (options.blocksPastEnd ?? 0); index++) {
        past.push(blockCount + index * 2);
      }
      const entries = (past.at(-1) ?? blockCount - 1) + 1;
      tableClusters = this.clustersFor(entries * 8) + (options.extraRefcountTableClusters ?? 0);
      const needed = Math.ceil((others + blockCount + past.length + tableClusters) / this.entriesPerBlock);
      if (needed <= blockCount) {
        break;
      }
      blockCount = needed;
    }
    for (const index of [...Array(blockCount).keys(), ...past]) {
      this.blocks.set(index, new Unit(`refcount block ${index}`, 1));
    }
    return new Unit('refcount table', tableClusters);
  }

  private place(inside: Unit[], atEnd: readonly Unit[]): Unit[] {
    const { options, random } = this;
    const shuffled = options.shuffle === true ? random.shuffle(inside) : inside;
    const arranged = options.arrange === undefined ? shuffled : ([...options.arrange(shuffled)] as Unit[]);
    if (new Set(arranged).size !== inside.length) {
      throw new Error('arrange must return each unit once');
    }
    const result = [this.header, ...arranged, ...atEnd];
    let at = 0;
    for (const unit of result) {
      unit.at = at;
      at += unit.clusters;
    }
    return result;
  }

  private settleCounts(): void {
    for (const unit of this.units) {
      for (let cluster = 0; cluster < unit.clusters; cluster++) {
        this.counts[unit.at + cluster] = unit.refcountOf(cluster);
      }
    }
    this.overcount();
    if (this.options.sparseRefcountTable === true) {
      this.dropZeroBlocks();
    }
    this.addStaleCounts();
  }

  private overcount(): void {
    const { random, options, model } = this;
    const refcounts = new Set<Unit>([this.header, this.refcountTable, ...this.blocks.values()]);
    const eligible = this.units.filter(
      (unit) =>
        unit.refcount > 0 &&
        unit.name !== 'leak' &&
        (options.overcountRefcounts === true || !refcounts.has(unit)),
    );
    // Every container of a stream for itself, if an extent is in it.
    const places = eligible.flatMap((unit) =>
      unit.part instanceof Stream
        ? unit.part.refcounts.flatMap((count, index) =>
            count === 0 ? [] : [{ at: unit.at + index, clusters: 1 }],
          )
        : [unit],
    );
    for (const { at, clusters } of random.shuffle(places).slice(0, options.overcounted ?? 0)) {
      const cluster = at + random.int(clusters);
      const count = (this.counts[cluster] ?? 0) + random.between(1, 2);
      this.counts[cluster] = Math.min(count, model.maxRefcount);
    }
  }

  /** A block that is dropped leaves junk behind, which may make another block all zero. */
  private dropZeroBlocks(): void {
    for (let dropped = true; dropped;) {
      dropped = false;
      for (const [index, { at }] of this.blocks) {
        const covered = this.counts.subarray(
          index * this.entriesPerBlock,
          (index + 1) * this.entriesPerBlock,
        );
        // A block past the end is there because the test asked for it.
        if (covered.length > 0 && covered.every((count) => count === 0)) {
          this.blocks.delete(index);
          this.counts[at] = 0;
          dropped = true;
        }
      }
    }
  }

  private addStaleCounts(): void {
    const wanted = this.options.staleCounts ?? 0;
    const ranges: [number, number][] = [];
    for (const index of this.blocks.keys()) {
      const end = (index + 1) * this.entriesPerBlock;
      if (end > this.clusterCount) {
        ranges.push([Math.max(index * this.entriesPerBlock, this.clusterCount), end]);
      }
    }
    for (let index = 0; index < wanted && ranges.length > 0; index++) {
      const [start, end] = this.random.pick(ranges);
      this.staleCounts.set(start + this.random.int(end - start), this.leakedCount());
    }
  }

  private contentOf(unit: Unit): Uint8Array {
    const { part } = unit;
    if (unit === this.header) {
      return this.headerContent();
    }
    if (unit === this.refcountTable) {
      return this.refcountTableContent();
    }
    if (unit === this.snapshotTable) {
      const offsets = this.model.snapshots.map(({ l1 }) => this.offsetOf(l1));
      return this.withTail(encodeSnapshotTable(this.model.snapshots, offsets), unit);
    }
    if (unit === this.bitmapDirectory) {
      const offsets = this.model.bitmaps.map((bitmap) => this.offsetOf(bitmap));
      return this.withTail(encodeBitmapDirectory(this.model.bitmaps, offsets), unit);
    }
    if (unit === this.encryptionHeader) {
      const length = unit.clusters * this.clusterSize;
      return this.headerOptions.unlockable === true ? luksHeader() : this.random.bytes(length);
    }
    for (const [index, block] of this.blocks) {
      if (block === unit) {
        return this.blockContent(index);
      }
    }
    if (part === null) {
      return new Uint8Array(0);
    }
    if (part instanceof Stream) {
      return this.streamContent(part, unit);
    }
    if (part instanceof Bitmap) {
      return this.withTail(
        encodeBitmapTable(part, (bits) => this.offsetOf(bits)),
        unit,
      );
    }
    if ('content' in part) {
      const offset = unit.at * this.clusterSize;
      return this.headerOptions.unlockable === true ? encryptSectors(part.content, offset) : part.content;
    }
    return 'tables' in part ? this.withTail(this.l1Content(part), unit) : this.l2Content(part);
  }

  /** What lies between extents means nothing either. */
  private streamContent(stream: Stream, unit: Unit): Uint8Array {
    const length = unit.clusters * this.clusterSize;
    const content = this.options.garbageTails === true ? this.random.bytes(length) : new Uint8Array(length);
    stream.writeInto(content);
    return content;
  }

  private withTail(content: Uint8Array, unit: Unit): Uint8Array {
    const tail = unit.clusters * this.clusterSize - content.length;
    return this.options.garbageTails === true ? Buffer.concat([content, this.random.bytes(tail)]) : content;
  }

  private offsetOf(part: Part): number {
    const unit = this.byPart.get(part);
    if (unit === undefined) {
      throw new Error('a table leads to something that has no place');
    }
    return unit.at * this.clusterSize;
  }

  private offsetOfExtent(extent: ExtentUnit): number {
    const unit = this.byExtent.get(extent);
    if (!(unit?.part instanceof Stream)) {
      throw new Error('a table leads to a compressed cluster that has no place');
    }
    return unit.at * this.clusterSize + (unit.part.starts.get(extent) ?? 0);
  }

  private builtExtents(): BuiltExtent[] {
    const refcounts = this.model.refcounts();
    const result: BuiltExtent[] = [];
    for (const [extent, name] of this.model.distinctExtents()) {
      const refcount = refcounts.get(extent) ?? 0;
      result.push({ name, offset: this.offsetOfExtent(extent), length: extent.content.length, refcount });
    }
    return result.sort((a, b) => a.offset - b.offset);
  }

  private headerContent(): Uint8Array {
    const { model, snapshotTable } = this;
    const fields = {
      l1Offset: model.active.size === 0 ? 0 : this.offsetOf(model.active),
      l1Size: model.active.size,
      refcountTableOffset: this.refcountTable.at * this.clusterSize,
      refcountTableClusters: this.refcountTable.clusters,
      snapshotCount: model.snapshots.length,
      snapshotsOffset: snapshotTable === null ? 0 : snapshotTable.at * this.clusterSize,
      bitmaps:
        this.bitmapDirectory === null
          ? null
          : {
              count: model.bitmaps.length,
              offset: this.bitmapDirectory.at * this.clusterSize,
              length: this.bitmapDirectoryLength,
            },
      encryptionHeader:
        this.encryptionHeader === null
          ? null
          : {
              offset: this.encryptionHeader.at * this.clusterSize,
              // Its last cluster is not full.
              length: this.encryptionHeader.clusters * this.clusterSize - 100,
            },
    };
    return encodeHeader(
      model.format,
      this.headerOptions,
      fields,
      this.options.garbageTails === true ? this.random : null,
    );
  }

  private refcountTableContent(): Uint8Array {
    const table = Buffer.alloc(this.refcountTable.clusters * this.clusterSize);
    for (const [index, { at }] of this.blocks) {
      writeOffset(table, at * this.clusterSize, index * 8);
    }
    return table;
  }

  private blockContent(index: number): Uint8Array {
    const block = Buffer.alloc(this.clusterSize);
    const base = index * this.entriesPerBlock;
    const order = this.model.format.refcountOrder;
    for (const [entry, count] of this.counts.subarray(base, base + this.entriesPerBlock).entries()) {
      writeRefcount(block, order, entry, count);
    }
    for (const [cluster, count] of this.staleCounts) {
      if (cluster >= base && cluster < base + this.entriesPerBlock) {
        writeRefcount(block, order, cluster - base, count);
      }
    }
    return block;
  }

  private l1Content(l1: L1Table): Uint8Array {
    const content = Buffer.alloc(l1.size * 8);
    const active = l1 === this.model.active;
    for (const [index, table] of l1.tables) {
      writeEntry(content, index * 8, this.offsetOf(table), this.copied(table, active), false);
    }
    return content;
  }

  private l2Content(table: L2Unit): Uint8Array {
    const content = Buffer.alloc(this.clusterSize);
    const active = [...this.model.active.tables.values()].includes(table);
    const size = this.model.format.l2EntrySize;
    const { clusterBits, dataFile } = this.model.format;
    for (const [index, { zero, data, extent, subclusters }] of table.entries) {
      if (extent !== undefined) {
        const offset = this.offsetOfExtent(extent);
        const descriptor = compressedDescriptor(offset, extent.content.length, clusterBits);
        content.writeBigUInt64BE(descriptor, index * size);
        continue;
      }
      const external = dataFile ? this.guestOffset(table, index) : null;
      const offset = data === null ? 0 : (external ?? this.offsetOf(data));
      const copied = data !== null && (external !== null || this.copied(data, active));
      writeEntry(content, index * size, offset, copied, zero && size === 8);
      if (size === 16) {
        const bitmaps = subclusters ?? { zero: zero ? ALL : 0, allocated: zero || data === null ? 0 : ALL };
        content.writeUInt32BE(bitmaps.zero, index * size + 8);
        content.writeUInt32BE(bitmaps.allocated, index * size + 12);
      }
    }
    return content;
  }

  private guestOffset(table: L2Unit, index: number): number {
    const { active, entriesPerL2 } = this.model;
    const l1Index = [...active.tables].find(([, found]) => found === table)?.[0] ?? 0;
    return (l1Index * entriesPerL2 + index) * this.clusterSize;
  }

  private copied(part: Part, active: boolean): boolean {
    if (!active) {
      return this.options.strayCopied === true && this.random.chance(0.5);
    }
    return this.counts[this.offsetOf(part) / this.clusterSize] === 1;
  }

  /** What looks like a table of this very image is the worst junk. */
  private fillJunk(): void {
    if (this.options.zeroJunk === true) {
      return;
    }
    const { random, clusterSize } = this;
    const content = Uint8Array.from(this.image);
    for (const unit of this.units) {
      const used =
        unit === this.header ||
        unit === this.refcountTable ||
        unit === this.snapshotTable ||
        unit === this.bitmapDirectory ||
        unit === this.encryptionHeader;
      if (used || unit.part !== null || [...this.blocks.values()].includes(unit)) {
        continue;
      }
      for (let cluster = unit.at; cluster < unit.at + unit.clusters; cluster++) {
        const source = random.int(this.clusterCount) * clusterSize;
        const junk = random.chance(0.5)
          ? content.subarray(source, source + clusterSize)
          : random.bytes(clusterSize);
        this.image.set(junk, cluster * clusterSize);
      }
    }
  }

  private fileLength(): number {
    const length = this.image.length;
    // A gap of no clusters is not where the file ends.
    const last = this.units.findLast(({ clusters }) => clusters > 0);
    const stream = last?.part instanceof Stream ? last.part : null;
    if (last !== undefined && stream !== null && this.options.compressedTail === true) {
      return last.at * this.clusterSize + stream.liveEnd;
    }
    if (this.options.partialTail !== true || last === undefined) {
      return length;
    }
    let meaningful = 1;
    if (stream !== null) {
      meaningful = Math.max(1, stream.liveEnd - (last.clusters - 1) * this.clusterSize);
    } else if (last.part === null ? last.refcount > 0 && last.name !== 'leak' : !('content' in last.part)) {
      // A table: only zeroes may go. The tables' own ends are not looked at, so garbage there stays. Entries whose
      // length is their own to say must be there whole, zeroes included.
      meaningful = this.clusterSize;
      const mayEndEarly = !/^(snapshot table|bitmap directory)/.test(last.name);
      while (mayEndEarly && meaningful > 1 && this.image[length - this.clusterSize + meaningful - 1] === 0) {
        meaningful--;
      }
    }
    return length - this.clusterSize + this.random.between(meaningful, this.clusterSize);
  }
}

const LUKS_CLUSTERS = 3;

/** A bit for each of the 32 subclusters. */
const ALL = 0xffffffff;

function units(name: string, count: number | undefined, refcount: number | (() => number)): Unit[] {
  return Array.from(
    { length: count ?? 0 },
    () => new Unit(name, 1, typeof refcount === 'number' ? refcount : refcount()),
  );
}

function totalClusters(list: readonly Unit[]): number {
  return list.reduce((sum, { clusters }) => sum + clusters, 0);
}

function writeEntry(buffer: Buffer, position: number, offset: number, copied: boolean, zero: boolean): void {
  writeOffset(buffer, offset + (zero ? 1 : 0), position);
  if (copied) {
    buffer[position] = (buffer[position] ?? 0) | 0x80;
  }
}

/** Counts of less than a byte are packed with the least significant bits first. */
function writeRefcount(block: Buffer, order: number, entry: number, count: number): void {
  if (order >= 3) {
    const width = 2 ** (order - 3);
    if (width === 8) {
      writeOffset(block, count, entry * 8);
    } else {
      block.writeUIntBE(count, entry * width, width);
    }
    return;
  }
  const bits = 2 ** order;
  const byte = Math.floor((entry * bits) / 8);
  block[byte] = (block[byte] ?? 0) | (count << ((entry * bits) % 8));
}
