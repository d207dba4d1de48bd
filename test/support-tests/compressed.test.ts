import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  image,
  type BuiltExtent,
  type BuiltImage,
  type ImageBuilder,
  type ImageOptions,
  type LayoutOptions,
} from '../support/image-builder.js';
import {
  compareGuestView,
  extentSectors,
  guestView,
  inspect,
  minimalClusterCount,
  readGuest,
  refcountsLimitSharing,
} from '../support/oracle.js';
import { checkImage, qemuImg, qemuIo } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from './temporary-directory.js';

const directory = temporaryDirectory();
const CLUSTER = 512;

/** No corruption; the number of leaks, on which the oracle and qemu-img must agree. */
function leaks(bytes: Uint8Array): number {
  const inspection = inspect(bytes);
  expect(inspection.corruptions).toEqual([]);
  const check = checkImage(directory.store('image.qcow2', bytes));
  expect(check).toEqual({ corruptions: 0, leaks: inspection.leaks, errors: 0 });
  return inspection.leaks;
}

/** QEMU reads from every layer what the oracle reads. */
function expectSameGuest(bytes: Uint8Array): void {
  const path = directory.store('source.qcow2', bytes);
  const view = guestView(bytes);
  for (const layer of [-1, ...view.layout.snapshots.keys()]) {
    const id = view.layout.snapshots[layer]?.id;
    const select = id === undefined ? [] : ['-l', `snapshot.id=${id}`];
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', ...select, path, directory.path('guest.raw'));
    const same = Buffer.compare(readFileSync(directory.path('guest.raw')), readGuest(view, layer)) === 0;
    expect(same, `layer ${layer}`).toBe(true);
  }
}

/** With zstd the test says how long each extent is, and what is in it. */
function extents(lengths: readonly number[], options: ImageOptions = {}): ImageBuilder {
  const builder = image({ compressionType: 'zstd', ...options });
  const random = new Random(9);
  for (const [index, length] of lengths.entries()) {
    builder.compress(index, random.bytes(length));
  }
  return builder;
}

/** Where the extents are, in bytes from the start of the first one's host cluster. */
function starts(built: BuiltImage, clusterSize = CLUSTER): number[] {
  const base = built.where('compressed 0') * clusterSize;
  return built.extents.map(({ offset }) => offset - base);
}

function refcount(built: BuiltImage, cluster: number): number {
  return new DataView(built.bytes.buffer).getUint16(built.where('refcount block 0') * CLUSTER + cluster * 2);
}

describe('QEMU and the oracle agree', () => {
  const busy = (options: ImageOptions): ImageBuilder => {
    const clusterBits = options.clusterBits ?? 9;
    const guestClusters = clusterBits >= 16 ? 6 : 30;
    const builder = image({ virtualSize: guestClusters * 2 ** clusterBits - 512, ...options })
      .write(0)
      .compressRange(1, guestClusters - 1)
      .write(2)
      .discard(3);
    if (options.refcountOrder !== 0) {
      builder.snapshot('a').compress(1).write(4).discard(5);
    }
    return builder;
  };
  const waste = { newStreams: 0.2, freshSectors: 0.2, freshClusters: 0.1, deadBytes: 0.4 };
  const layouts: LayoutOptions[] = [
    { shuffle: true, junk: 4, compressedTail: true },
    { shuffle: true, garbageTails: true, partialTail: true, ...waste },
  ];
  const expectAgreement = (options: ImageOptions): void => {
    const builder = busy(options);
    for (const layout of layouts) {
      const bytes = builder.layout(layout).build();
      expect(leaks(bytes)).toBe(0);
      expectSameGuest(bytes);
    }
  };

  const sizes = [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21];
  for (const clusterBits of sizes) {
    const orders = [9, 16].includes(clusterBits) ? [0, 1, 2, 3, 4, 5, 6] : [0, 4];
    test.each(orders)(`clusters of 2^${clusterBits}, refcounts of 2^%i bits`, (refcountOrder) => {
      expectAgreement({ clusterBits, refcountOrder });
    });
  }

  test.each([9, 12, 16, 21])('version 2, clusters of 2^%i', (clusterBits) => {
    expectAgreement({ clusterBits, version: 2 });
  });

  test('on images that QEMU compressed itself', () => {
    const raw = directory.store('content.raw', readGuest(guestView(busy({ clusterBits: 16 }).build())));
    for (const clusterSize of [512, 1024, 4096, 65536, 2097152]) {
      const options = `cluster_size=${clusterSize}`;
      const path = directory.path('converted.qcow2');
      qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options, raw, path);
      expect(leaks(readFileSync(path))).toBe(0);
      expectSameGuest(readFileSync(path));
    }
  });

  test('on what the guest wrote', () => {
    const pattern = (byte: number) => new Uint8Array(4096).fill(byte);
    const bytes = image({ clusterBits: 12, virtualSize: 5 * 4096 })
      .compress(0, pattern(1))
      .compress(1, pattern(2))
      .write(1, pattern(3))
      .compress(2, pattern(4))
      .discard(2)
      .compress(3, pattern(5).subarray(0, 10))
      .build();
    const expected = Buffer.concat([pattern(1), pattern(3), pattern(0), pattern(0), pattern(0)]);
    expected.fill(5, 3 * 4096, 3 * 4096 + 10);
    expect(Buffer.compare(readGuest(guestView(bytes)), expected)).toBe(0);
    qemuIo(directory.store('patterns.qcow2', bytes), [
      'read -P 1 0 4k',
      'read -P 3 4k 4k',
      'read -P 0 8k 4k',
      'read -P 5 12k 10',
    ]);
  });

  test('with zstd, which only QEMU can read', () => {
    const bytes = image({ compressionType: 'zstd' }).compressRange(0, 40).layout({ shuffle: true }).build();
    expect(leaks(bytes)).toBe(0);
    expect(qemuImg('info', directory.path('image.qcow2'))).toMatch(/compression type: zstd/);
    expect(() => readGuest(guestView(bytes))).toThrow('not with zlib');
  });

  test('when a snapshot shares extents, its deletion was interrupted, and counts are too high', () => {
    const builder = image({ seed: 5 }).compressRange(0, 20).snapshot('a').compressRange(5, 5).discard(11);
    expect(leaks(builder.build())).toBe(0);
    expect(leaks(builder.layout({ overcounted: 7, shuffle: true }).build())).toBe(7);
    expect(leaks(builder.deleteSnapshot('a', { interrupted: true }).build())).toBeGreaterThan(5);
  });
});

test('the move of a shared extent that a crash interrupted leaks, and the guest reads the same', () => {
  const builder = image({ seed: 6, virtualSize: 20 * CLUSTER })
    .compressRange(0, 5)
    .snapshot('a')
    .compress(1);
  const before = readGuest(guestView(builder.build()));
  expect(builder.halfMoveData(0)).toBe(true);
  expect(builder.halfMoveData(1)).toBe(false);
  const built = builder.buildWithMap();
  expect(built.extents).toHaveLength(7);
  expect(leaks(built.bytes)).toBeGreaterThan(1);
  expect(Buffer.compare(readGuest(guestView(built.bytes)), before)).toBe(0);
});

test('the sizes of extents are between a tenth and nine tenths of a cluster', () => {
  for (const clusterBits of [9, 12, 16]) {
    const { extents: built } = image({ clusterBits }).compressRange(0, 60).buildWithMap();
    const sizes = built.map(({ length }) => length / 2 ** clusterBits);
    expect(Math.min(...sizes)).toBeLessThan(0.2);
    expect(Math.min(...sizes)).toBeGreaterThan(0.05);
    expect(Math.max(...sizes)).toBeGreaterThan(0.8);
    expect(Math.max(...sizes)).toBeLessThan(0.95);
  }
});

describe('extents lie', () => {
  test('one right after the other, across host clusters', () => {
    const built = extents([300, 300, 100, 500]).buildWithMap();
    expect(starts(built)).toEqual([0, 300, 600, 700]);
    const first = built.where('compressed 0');
    expect([0, 1, 2].map((cluster) => refcount(built, first + cluster))).toEqual([2, 3, 1]);
    expect(leaks(built.bytes)).toBe(0);
  });

  test('as often as a snapshot shares them', () => {
    const built = extents([300, 300, 100]).snapshot('a').discard(0).buildWithMap();
    const first = built.where('compressed 0');
    expect(built.extents.map(({ refcount }) => refcount)).toEqual([2, 2, 1]);
    expect([0, 1].map((cluster) => refcount(built, first + cluster))).toEqual([5, 1]);
    expect(leaks(built.bytes)).toBe(0);
  });

  test('nowhere once nothing refers to them', () => {
    expect(
      extents([300, 300, 100])
        .write(0)
        .discard(1)
        .buildWithMap()
        .extents.map(({ name }) => name),
    ).toEqual(['active:2']);
  });

  test.each([
    [0, [0, 512, 1024, 1536, 2048]],
    [1, [0, 100, 200, 512, 612]],
    [2, [0, 100, 200, 300, 400]],
  ])('as many to a cluster as refcounts of 2^%i bits can count', (refcountOrder, expected) => {
    const built = extents([100, 100, 100, 100, 100], { refcountOrder }).buildWithMap();
    expect(starts(built)).toEqual(expected);
    expect(leaks(built.bytes)).toBe(0);
  });

  test('at fresh sectors, at fresh clusters, or in streams of their own', () => {
    const lengths = [300, 2000, 100, 600];
    const built = (layout: LayoutOptions) => extents(lengths, { clusterBits: 12 }).layout(layout);
    expect(starts(built({}).buildWithMap(), 4096)).toEqual([0, 300, 2300, 2400]);
    expect(starts(built({ freshSectors: 1 }).buildWithMap(), 4096)).toEqual([0, 512, 2560, 3072]);
    expect(starts(built({ freshClusters: 1 }).buildWithMap(), 4096)).toEqual([0, 4096, 8192, 12288]);
    const apart = built({ newStreams: 1 }).buildWithMap();
    expect(apart.units.filter(({ name }) => name.startsWith('compressed'))).toHaveLength(4);
  });

  test('among dead bytes, in part of a cluster or all of it', () => {
    const builder = image({ seed: 2 }).compressRange(0, 40).layout({ deadBytes: 0.5, newStreams: 0.3 });
    const built = builder.buildWithMap();
    expect(leaks(built.bytes)).toBe(0);
    const streams = built.units.filter(({ name }) => name.startsWith('compressed'));
    const counts = streams.flatMap(({ at, clusters }) =>
      Array.from({ length: clusters }, (_, index) => refcount(built, at + index)),
    );
    expect(counts.filter((count) => count === 0).length).toBeGreaterThan(3);
    expect(built.units.some(({ name }) => name === 'junk')).toBe(true);
    const larger = image({ seed: 2, clusterBits: 12 })
      .compressRange(0, 40)
      .layout({ deadBytes: 0.5 })
      .build();
    expect(minimalClusterCount(larger)).toBeLessThan(inspect(larger).liveClusters);
  });

  test('at the very end of the file, which ends with the last byte of the last one', () => {
    const built = image({ seed: 2, virtualSize: 20 * CLUSTER })
      .compressRange(0, 20)
      .layout({ compressedTail: true, shuffle: true, newStreams: 0.2, deadBytes: 0.3, junkAtEnd: 3 })
      .buildWithMap();
    const last = built.extents.at(-1)!;
    expect(built.bytes.length).toBe(last.offset + last.length);
    expect(built.bytes.length % 512).not.toBe(0);
    expect(leaks(built.bytes)).toBe(0);
    expectSameGuest(built.bytes);
  });
});

describe('what no image can have is refused', () => {
  test('content that does not shrink', () => {
    expect(() => image().compress(0, new Random(1).bytes(512))).toThrow('in a cluster of 512');
    expect(() => extents([512])).toThrow('in a cluster of 512');
  });

  test('more references than a refcount can hold', () => {
    const builder = image({ refcountOrder: 0 }).compressRange(0, 2).snapshot('a');
    expect(() => builder.build()).toThrow('more than its refcount');
  });

  test('a compression type where the header has no room for it', () => {
    expect(() => extents([1], { headerLength: 104 }).build()).toThrow('104 bytes has no compression type');
    expect(() => extents([1], { version: 2 }).build()).toThrow('72 bytes has no compression type');
  });
});

describe('the oracle sees', () => {
  /** Ten extents in a row; 300 bytes each, so that some straddle. */
  const sample = (): ImageBuilder => extents(Array<number>(10).fill(300)).layout({ junk: 2 });
  const straddling = ({ extents: all }: BuiltImage): BuiltExtent =>
    all.find(({ offset, length }) => (offset % CLUSTER) + length > CLUSTER)!;
  const slotOf = (built: BuiltImage, { name }: BuiltExtent): number =>
    built.where('L2 active:0') * CLUSTER + Number(name.split(':')[1]) * 8;
  const addTo = (built: BuiltImage, extent: BuiltExtent, addend: bigint): void => {
    const view = new DataView(built.bytes.buffer);
    const slot = slotOf(built, extent);
    view.setBigUint64(slot, view.getBigUint64(slot) + addend);
  };
  const setRefcount = (built: BuiltImage, cluster: number, count: number): void => {
    const block = built.where('refcount block 0') * CLUSTER;
    new DataView(built.bytes.buffer).setUint16(block + cluster * 2, count);
  };
  const ONE_SECTOR_MORE = 1n << 61n;

  test('a count that is too low in one of the clusters that an extent touches', () => {
    for (const cluster of [0, 1]) {
      const built = sample().buildWithMap();
      const at = Math.floor(straddling(built).offset / CLUSTER) + cluster;
      setRefcount(built, at, refcount(built, at) - 1);
      expect(inspect(built.bytes).corruptions.join('\n')).toMatch(/compressed data\): refcount/);
      expect(checkImage(directory.store('low.qcow2', built.bytes)).corruptions).toBeGreaterThan(0);
    }
  });

  test('a count that is too high', () => {
    const built = sample().buildWithMap();
    const at = Math.floor(straddling(built).offset / CLUSTER) + 1;
    setRefcount(built, at, refcount(built, at) + 1);
    expect(leaks(built.bytes)).toBe(1);
  });

  test('more references than a refcount can hold', () => {
    const built = extents([100, 100, 100, 100], { refcountOrder: 1 }).buildWithMap();
    const [third, fourth] = built.extents.slice(2);
    // Into the cluster that has three already.
    addTo(built, fourth!, BigInt(third!.offset - fourth!.offset));
    const at = Math.floor(third!.offset / CLUSTER);
    expect(inspect(built.bytes).corruptions.join('\n')).toContain(
      `cluster ${at} (compressed data): refcount 3, references 4`,
    );
    expect(checkImage(directory.store('over.qcow2', built.bytes)).corruptions).toBeGreaterThan(0);
  });

  test('half of a straddling extent moved elsewhere, which no count shows', () => {
    const built = sample().buildWithMap();
    const view = guestView(built.bytes);
    const second = (Math.floor(straddling(built).offset / CLUSTER) + 1) * CLUSTER;
    const elsewhere = built.where('junk') * CLUSTER;
    built.bytes.copyWithin(elsewhere, second, second + CLUSTER);
    built.bytes.fill(0, second, second + CLUSTER);
    expect(leaks(built.bytes)).toBe(0);
    expect(compareGuestView(view, built.bytes)).toMatch(/compressed data differ/);
  });

  test.each([
    ['an offset that is a sector too high', 512n],
    ['an offset that is a sector too low', -512n],
    ['an offset that is a byte too high', 1n],
    ['a count of sectors that is one too low', -ONE_SECTOR_MORE],
  ])('%s', (_, addend) => {
    const built = sample().buildWithMap();
    const view = guestView(built.bytes);
    addTo(built, straddling(built), addend);
    expect(compareGuestView(view, built.bytes)).toMatch(/compressed data differ/);
  });

  test('a count of sectors that is one too high', () => {
    const built = sample().buildWithMap();
    const view = guestView(built.bytes);
    const within = built.extents.find(({ offset, length }) => (offset % CLUSTER) + length <= CLUSTER)!;
    addTo(built, within, ONE_SECTOR_MORE);
    expect(compareGuestView(view, built.bytes)).toMatch(/compressed data differ/);
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(
      /compressed data\): refcount (\d), references/,
    );
  });

  test('an extent that is normal data now', () => {
    const built = sample().buildWithMap();
    const view = guestView(built.bytes);
    const slot = slotOf(built, built.extents[0]!);
    built.bytes[slot] = 0x80;
    expect(compareGuestView(view, built.bytes)).toMatch(/was compressed, is data/);
  });

  test('COPIED on an extent', () => {
    const built = sample().buildWithMap();
    built.bytes[slotOf(built, built.extents[0]!)]! |= 0x80;
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(/has COPIED set/);
    expect(checkImage(directory.store('copied.qcow2', built.bytes)).corruptions).toBeGreaterThan(0);
  });

  test('an extent in the header', () => {
    const built = sample().buildWithMap();
    const [first] = built.extents;
    addTo(built, first!, BigInt(-first!.offset));
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(/overlaps a header/);
  });

  test('a compression type that the feature bits deny', () => {
    const built = sample().buildWithMap();
    built.bytes[104] = 0;
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(/compression type 0/);
    built.bytes[104] = 1;
    built.bytes[79] = 0;
    expect(inspect(built.bytes).corruptions.join('\n')).toMatch(/compression type 1/);
  });

  test('a last sector that is past the end of the file, and needs a count there', () => {
    const built = extents([3900], { clusterBits: 12 }).layout({ compressedTail: true }).buildWithMap();
    const view = new DataView(built.bytes.buffer);
    const slot = built.where('L2 active:0') * 4096;
    view.setBigUint64(slot, view.getBigUint64(slot) + (1n << 58n));
    const past = Math.ceil(built.bytes.length / 4096);
    expect(inspect(built.bytes).corruptions).toEqual([
      `cluster ${past} (past the end): refcount 0, references 1`,
    ]);
    expect(checkImage(directory.store('past.qcow2', built.bytes)).corruptions).toBe(1);
    view.setUint16(built.where('refcount block 0') * 4096 + past * 2, 1);
    expect(inspect(built.bytes)).toMatchObject({ corruptions: [], staleRefcountsPastEnd: 0 });
    expect(leaks(built.bytes)).toBe(0);
  });
});

describe('the guest sees the same', () => {
  test('wherever streams are in the file', () => {
    const builder = image({ seed: 4 }).compressRange(0, 50).snapshot('a').compress(3).write(4);
    builder.layout({ newStreams: 0.2, deadBytes: 0.2 });
    const view = guestView(builder.build());
    for (let shift = 1; shift < 10; shift++) {
      const arrange: LayoutOptions['arrange'] = (units) => [...units.slice(shift), ...units.slice(0, shift)];
      expect(compareGuestView(view, builder.layout({ arrange }).build())).toBeNull();
    }
  });

  test('when the last extent no longer ends the file: past the end are zeroes', () => {
    const builder = image({ seed: 4 }).compressRange(0, 20);
    const whole = builder.build();
    const cut = builder.layout({ compressedTail: true }).build();
    expect(compareGuestView(guestView(cut), whole)).toBeNull();
    expect(compareGuestView(guestView(whole), cut)).toBeNull();
  });

  test('but not when the file lacks the last byte of the last extent', () => {
    const content = new Uint8Array(300).fill(7);
    const bytes = image({ compressionType: 'zstd' })
      .compress(0, content)
      .layout({ compressedTail: true })
      .build();
    const shorter = bytes.subarray(0, bytes.length - 1);
    expect(compareGuestView(guestView(bytes), shorter)).toMatch(/compressed data differ/);
  });
});

describe('the least number of clusters', () => {
  test('counts the sectors that extents touch, once each', () => {
    const count = (lengths: number[], layout: LayoutOptions = {}) =>
      extentSectors(extents(lengths, { clusterBits: 12 }).layout(layout).build());
    expect(count([])).toBe(0);
    expect(count([300, 200])).toBe(1);
    expect(count([300, 300, 1000])).toBe(4);
    expect(count([300, 300, 1000], { freshSectors: 1 })).toBe(4);
    expect(count([300, 300, 100], { freshSectors: 1 })).toBe(3);
    expect(count([300, 300, 100], { freshClusters: 1, deadBytes: 1 })).toBe(3);
    expect(extentSectors(extents([300, 300]).snapshot('a').build())).toBe(2);
  });

  test('may be out of reach where refcounts limit sharing', () => {
    const limited = (lengths: number[], options: ImageOptions) =>
      refcountsLimitSharing(extents(lengths, { clusterBits: 12, ...options }).build());
    expect(limited([], { refcountOrder: 0 })).toBe(false);
    expect(limited([100], { refcountOrder: 0 })).toBe(false);
    expect(limited([100, 100], { refcountOrder: 0 })).toBe(true);
    expect(limited([100, 100, 100], { refcountOrder: 1 })).toBe(false);
    expect(limited([100, 100, 100, 100], { refcountOrder: 1 })).toBe(true);
    expect(limited(Array<number>(15).fill(10), { refcountOrder: 2 })).toBe(false);
    expect(limited(Array<number>(300).fill(10), { refcountOrder: 3 })).toBe(true);
    expect(limited(Array<number>(300).fill(10), { refcountOrder: 4 })).toBe(false);
    const shared = extents([100, 100], { clusterBits: 12, refcountOrder: 1 }).snapshot('a').build();
    expect(refcountsLimitSharing(shared)).toBe(true);
  });

  test('is what a dense image has', () => {
    for (const clusterBits of [9, 12, 16]) {
      const builder = image({ clusterBits }).writeRange(0, 5).compressRange(5, 30).snapshot('a').compress(6);
      const dense = builder.build();
      const clusterCount = dense.length / 2 ** clusterBits;
      expect(minimalClusterCount(dense)).toBe(clusterCount);
      const wasteful = { deadBytes: 0.5, newStreams: 0.5, leaks: 3, junk: 9, shuffle: true };
      const bytes = builder.layout(wasteful).build();
      expect(minimalClusterCount(bytes)).toBeGreaterThanOrEqual(clusterCount);
      // Each stream can begin and end within a sector.
      expect(minimalClusterCount(bytes)).toBeLessThanOrEqual(clusterCount + (clusterBits === 9 ? 40 : 4));
    }
  });
});
