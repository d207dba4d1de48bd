/** Random valid images for property tests: any mix of what the builder can make, the same for the same seed. */
import {
  type BitmapOptions,
  image,
  type ImageBuilder,
  type ImageOptions,
  type LayoutOptions,
} from './image-builder.js';
import { Random } from './random.js';

/** Of the images, how many have compressed clusters. */
const COMPRESSED_SHARE = 0.25;
/** And how many of version 3 persistent bitmaps. */
const BITMAPS_SHARE = 0.1;

export interface RandomImageOverrides {
  readonly clusterBits?: number;
  readonly refcountOrder?: number;
  readonly version?: 2 | 3;
  /** What the builder makes only when it is told to. */
  readonly features?: Pick<ImageOptions, 'extendedL2' | 'dataFile' | 'encryption' | 'unlockable'>;
  /** About the most host clusters that the file may have; by default 400, with large clusters fewer. */
  readonly maxClusters?: number;
  /** No leaks of any kind, so that refcounts are exactly the references; by default one image in seven. */
  readonly clean?: boolean;
  /** Whether some of the guest’s clusters are compressed. */
  readonly compressed?: boolean;
  /** Whether there are persistent bitmaps; version 3 only. */
  readonly bitmaps?: boolean;
  /** Has the last word on the layout. */
  readonly layout?: LayoutOptions;
}

export interface RandomImage {
  readonly bytes: Uint8Array;
  /** The seed, and every choice made. */
  readonly description: string;
  readonly hasBackingFile: boolean;
}

export function randomImage(seed: number, overrides: RandomImageOverrides = {}): RandomImage {
  const random = new Random(seed);
  const version = overrides.version ?? (overrides.refcountOrder === undefined && random.chance(0.12) ? 2 : 3);
  const clusterBits = overrides.clusterBits ?? random.pick([9, 9, 9, 9, 9, 9, 10, 10, 11, 12, 12, 16]);
  const orders = [0, 1, 1, 2, 3, 4, 4, 4, 5, 6, 6];
  const refcountOrder = overrides.refcountOrder ?? (version === 2 ? 4 : random.pick(orders));
  const maxClusters = overrides.maxClusters ?? (clusterBits >= 14 ? 30 : random.pick([80, 150, 250, 400]));
  const clean = overrides.clean ?? random.chance(0.15);
  const format = { seed, version, clusterBits, refcountOrder } as const;
  const header = randomHeader(random, format);
  const features = overrides.features ?? {};
  const entriesPerL2 = 2 ** clusterBits / (features.extendedL2 === true ? 16 : 8);
  const sizes = randomSizes(random, clusterBits, maxClusters, entriesPerL2);
  // QEMU never writes compressed data to an external data file, and where it encrypts only on request.
  const mayCompress =
    features.dataFile !== true && (features.encryption === undefined || overrides.compressed === true);
  // Numbers of their own, so that images without compressed clusters stay what they were.
  const compression = mayCompress
    ? randomCompression(new Random(seed + 0xc0), version, overrides.compressed)
    : null;
  const options: ImageOptions = { ...format, ...header, ...sizes, ...features, ...compression?.header };

  const builder = image(options);
  const guest = new RandomGuest(random, builder, options, clean, compression?.share ?? 0);
  guest.fill(Math.floor(maxClusters * (0.25 + (0.35 * random.int(100)) / 100)));
  const zeroed =
    version === 3 && features.dataFile !== true ? zeroInPlace(new Random(seed + 0xd0), builder) : [];
  const bitmaps = randomBitmaps(new Random(seed + 0xb1), builder, overrides.bitmaps);
  const layout = {
    ...randomLayout(random, { clusterBits, refcountOrder, maxClusters }, clean),
    ...compression?.layout,
    ...overrides.layout,
  };
  const bytes = builder.layout(layout).build();
  const { extensions, ...rest } = options;
  const choices = { ...rest, extensions: extensions?.length ?? 0, ...layout };
  return {
    bytes,
    description: `randomImage(${seed}, ${JSON.stringify(overrides)}): ${JSON.stringify(choices)}; ${[...guest.history, ...zeroed, ...bitmaps].join(', ')}`,
    hasBackingFile: options.backingFile !== undefined,
  };
}

function randomHeader(random: Random, { version }: { version: 2 | 3 }): ImageOptions {
  const withBacking = random.chance(0.15);
  return {
    headerLength: random.pick([104, 112]),
    lazyRefcounts: version === 3 && random.chance(0.15),
    featureNames: version === 3 && random.chance(0.4) ? random.between(1, 4) : undefined,
    extensions: Array.from({ length: random.chance(0.3) ? random.between(1, 2) : 0 }, () => ({
      type: 0x7e570000 + random.int(0x1000),
      data: random.bytes(random.int(33)),
    })),
    backingFile: withBacking ? `base-${random.int(1000)}.raw` : undefined,
    backingFormat: withBacking ? 'raw' : undefined,
  };
}

/** What a guest writes as zeroes last of all: in a share of the images, so that the others stay what they were. */
function zeroInPlace(random: Random, builder: ImageBuilder): string[] {
  if (builder.guestClusters === 0 || !random.chance(0.2)) return [];
  const clusters = Array.from({ length: random.between(1, 8) }, () => random.int(builder.guestClusters));
  for (const cluster of clusters) builder.zeroInPlace(cluster);
  return [`zero in place ${clusters.join(' ')}`];
}

/** Numbers of their own, so that images without bitmaps stay what they were. Says what it made. */
function randomBitmaps(
  random: Random,
  builder: ImageBuilder,
  wanted = random.chance(BITMAPS_SHARE),
): string[] {
  const { version, virtualSize } = builder.model.format;
  if (!wanted || version === 2 || virtualSize < 512) {
    return [];
  }
  // Now and then a directory of several clusters, and tables of several.
  const count = random.chance(0.2) ? random.between(5, 20) : random.between(1, 3);
  return Array.from({ length: count }, (_, index) => {
    const name = random.chance(0.1) ? 'n'.repeat(random.between(1, 1023)) : `bitmap${index}`;
    const inUse = random.chance(0.3);
    const isLong = inUse && random.chance(0.5);
    const options: BitmapOptions = {
      granularityBits: random.chance(0.5) ? 9 : random.between(9, 31),
      auto: random.chance(0.5),
      inUse,
      tableEntries: inUse ? random.between(1, isLong ? 200 : 4) : undefined,
      entries: isLong ? MOSTLY_ZEROES : random.pick([['bits'], ['zeroes', 'ones']] as const),
    };
    builder.bitmap(name, options);
    return `bitmap ${name} ${JSON.stringify({ ...options, entries: options.entries?.length })}`;
  });
}

const MOSTLY_ZEROES = [...Array<'zeroes'>(60).fill('zeroes'), 'bits', 'ones'] as const;

interface Compression {
  readonly header: Pick<ImageOptions, 'headerLength' | 'compressionType'>;
  /** Of the guest's writes, how many are compressed. */
  readonly share: number;
  readonly layout: LayoutOptions;
}

function randomCompression(
  random: Random,
  version: 2 | 3,
  wanted = random.chance(COMPRESSED_SHARE),
): Compression | null {
  if (!wanted) {
    return null;
  }
  const zstd = version === 3 && random.chance(0.2);
  return {
    header: zstd ? { headerLength: 112, compressionType: 'zstd' } : {},
    share: random.pick([0.2, 0.6, 1]),
    layout: {
      newStreams: random.pick([0, 0.05, 0.3]),
      freshSectors: random.pick([0, 0, 0.1, 1]),
      freshClusters: random.pick([0, 0, 0.1, 0.5]),
      deadBytes: random.pick([0, 0.1, 0.4]),
      compressedTail: random.chance(0.3),
    },
  };
}

function randomSizes(
  random: Random,
  clusterBits: number,
  maxClusters: number,
  entriesPerL2: number,
): ImageOptions {
  const clusterSize = 2 ** clusterBits;
  if (random.chance(0.02)) {
    return { virtualSize: 0, l1Size: random.int(3) };
  }
  const tables = random.between(1, Math.max(1, Math.min(12, Math.floor(maxClusters / 20))));
  const lastTable = random.chance(0.5) ? entriesPerL2 : random.between(1, entriesPerL2);
  // Not always whole clusters, though always whole sectors.
  const lastCluster = random.chance(0.5) ? 0 : 512 * random.int(clusterSize / 512);
  const virtualSize = ((tables - 1) * entriesPerL2 + lastTable) * clusterSize - lastCluster;
  const slack = random.chance(0.2) ? random.between(1, Math.min(3 * entriesPerL2, 200)) : random.int(2);
  return { virtualSize, l1Size: tables + slack };
}

function randomLayout(
  random: Random,
  {
    clusterBits,
    refcountOrder,
    maxClusters,
  }: { clusterBits: number; refcountOrder: number; maxClusters: number },
  clean: boolean,
): LayoutOptions {
  const some = (probability: number, share: number) =>
    random.chance(probability) ? random.between(1, Math.max(1, Math.floor(maxClusters * share))) : 0;
  const entriesPerBlock = (2 ** clusterBits * 8) / 2 ** refcountOrder;
  const gapFits = entriesPerBlock * 2 <= maxClusters;
  return {
    shuffle: random.chance(0.75),
    junk: some(0.8, 0.25),
    gap:
      gapFits && random.chance(0.5) ? random.between(entriesPerBlock, entriesPerBlock * 2) : some(0.2, 0.1),
    junkAtEnd: some(0.25, 0.1),
    leaks: clean ? 0 : some(0.4, 0.1),
    leaksAtEnd: clean ? 0 : some(0.2, 0.05),
    overcounted: clean ? 0 : some(0.35, 0.08),
    overcountRefcounts: random.chance(0.1),
    sparseRefcountTable: random.chance(0.6),
    blocksPastEnd: some(0.15, 0.01),
    extraRefcountTableClusters: random.chance(0.2) ? random.between(1, 3) : 0,
    staleCounts: clean || random.chance(0.75) ? 0 : random.between(1, 5),
    partialTail: random.chance(0.3),
    zeroJunk: random.chance(0.2),
    garbageTails: random.chance(0.5),
    strayCopied: random.chance(0.3),
  };
}

/** Does to the model what a guest and its owner do to an image over time. */
class RandomGuest {
  readonly history: string[] = [];
  private readonly names: string[] = [];
  private readonly maxLayers: number;
  private aliases = 0;
  private layers = 1;

  constructor(
    private readonly random: Random,
    private readonly builder: ImageBuilder,
    private readonly options: ImageOptions,
    private readonly clean: boolean,
    private readonly compressedShare: number,
  ) {
    // So that no path count is more than a refcount can hold, two aliases included.
    this.maxLayers = options.dataFile === true ? 1 : ([1, 3, 5][options.refcountOrder ?? 4] ?? 6);
  }

  fill(target: number): void {
    const { random, builder } = this;
    if (builder.model.active.size === 0) {
      return;
    }
    this.write();
    // Overwriting may never reach the target.
    for (let step = 0; step < 200 && this.clusters() < target; step++) {
      random.pick([
        () => this.write(),
        () => this.write(),
        () => (this.options.extendedL2 === true ? this.writeSubclusters() : this.write()),
        () => this.zero(),
        () => this.discard(),
        () => this.snapshot(),
        () => this.snapshot(),
        () => this.manageSnapshots(),
        () => this.alias(),
      ])();
    }
    if (!this.clean && random.chance(0.3)) {
      this.halfMove();
    }
  }

  private clusters(): number {
    const { model } = this.builder;
    // An extent counts like a cluster, for what the layout wastes between extents.
    return model.distinctData().size + model.distinctExtents().size + model.distinctL2().size;
  }

  /** Now and then beyond the end of the disk, as after a shrink. */
  private cluster(): number {
    const { guestClusters, model } = this.builder;
    const end = this.random.chance(0.05)
      ? model.active.size * model.entriesPerL2
      : Math.max(guestClusters, 1);
    return this.random.int(end);
  }

  private write(): void {
    const { random, builder } = this;
    const compress = this.compressedShare > 0 && random.chance(this.compressedShare);
    const first = this.cluster();
    const count = random.chance(0.5) ? 1 : random.between(2, this.options.clusterBits === 16 ? 4 : 16);
    const end = Math.min(first + count, builder.model.active.size * builder.model.entriesPerL2);
    for (let cluster = first; cluster < end; cluster++) {
      // Zeroes and repeated blocks, as real disks have: equal contents must not confuse anything.
      const content = random.chance(0.1) ? new Uint8Array(1).fill(random.int(2)) : undefined;
      if (compress) {
        builder.compress(cluster, content);
      } else {
        builder.write(cluster, content);
      }
    }
    this.history.push(`${compress ? 'compress' : 'write'} ${first}+${end - first}`);
  }

  private writeSubclusters(): void {
    const { random, builder } = this;
    const cluster = this.cluster();
    const zero = random.int(2 ** 32);
    const allocated = random.chance(0.2) ? 0 : (random.int(2 ** 32) & ~zero) >>> 0;
    builder.writeSubclusters(cluster, { zero, allocated });
    this.history.push(`subclusters of ${cluster}: zero ${zero}, allocated ${allocated}`);
  }

  private zero(): void {
    if (this.options.version === 2) {
      return;
    }
    const cluster = this.cluster();
    const allocated = this.random.chance(0.5);
    this.builder.zero(cluster, { allocated });
    this.history.push(`zero ${cluster}${allocated ? ' allocated' : ''}`);
  }

  private discard(): void {
    const { random, builder } = this;
    const first = this.cluster();
    // Now and then a whole table's worth, which leaves an empty L2 table.
    const count = random.chance(0.1) ? builder.model.entriesPerL2 : random.between(1, 4);
    for (let cluster = first; cluster < first + count; cluster++) {
      builder.discard(cluster);
    }
    this.history.push(`discard ${first}+${count}`);
  }

  private snapshot(): void {
    const { random, builder } = this;
    if (this.layers >= this.maxLayers) {
      return;
    }
    const name = `s${this.history.length}`;
    const extraSize =
      this.options.version === 2 ? random.pick([0, 0, 16, 24, 100]) : random.pick([16, 24, 24, 24, 40, 1024]);
    const vmStateClusters = random.chance(0.25) ? random.between(1, 4) : 0;
    builder.snapshot(name, { extraSize, vmStateClusters });
    this.names.push(name);
    this.layers++;
    this.history.push(`snapshot ${name} (extra ${extraSize}, state ${vmStateClusters})`);
  }

  private manageSnapshots(): void {
    const { random, builder } = this;
    if (this.names.length === 0) {
      return;
    }
    const name = random.pick(this.names);
    if (random.chance(0.3)) {
      builder.revert(name);
      this.history.push(`revert ${name}`);
      return;
    }
    const interrupted = !this.clean && random.chance(0.2);
    builder.deleteSnapshot(name, { interrupted });
    this.names.splice(this.names.indexOf(name), 1);
    this.layers -= interrupted ? 0 : 1;
    this.history.push(`delete ${name}${interrupted ? ' interrupted' : ''}`);
  }

  private alias(): void {
    const { builder, random } = this;
    if (
      (this.options.refcountOrder ?? 4) < 2 ||
      this.options.dataFile === true ||
      this.aliases >= 2 ||
      !random.chance(0.3)
    ) {
      return;
    }
    const from = this.cluster();
    const to = this.cluster();
    const entry = builder.model.entry(builder.model.active, from);
    if (from !== to && (entry?.data || entry?.extent)) {
      builder.alias(from, to);
      this.aliases++;
      this.history.push(`alias ${from} as ${to}`);
    }
  }

  private halfMove(): void {
    const { random, builder } = this;
    for (const [l1Index, table] of [...builder.model.active.tables]) {
      if (random.chance(0.3) && builder.halfMoveL2(l1Index)) {
        this.history.push(`half-moved L2 ${l1Index}`);
      }
      for (const index of [...table.entries.keys()]) {
        const cluster = l1Index * builder.model.entriesPerL2 + index;
        if (random.chance(0.2) && builder.halfMoveData(cluster)) {
          this.history.push(`half-moved data ${cluster}`);
        }
      }
    }
  }
}
