import { describe, expect, test } from 'vitest';
import { Kind } from '../../src/image/host-clusters.js';
import { visitReferences } from '../../src/image/references.js';
import { Census, type Walk, requireSound } from '../../src/image/walk.js';
import { image, type ImageBuilder } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { Random } from '../support/random.js';
import { randomImage } from '../support/random-image.js';
import { opened, withWord } from './opened.js';

describe('a walk counts', () => {
  test('every kind of cluster once', async () => {
    const built = image({ clusterBits: 9, l1Size: 100 }).write(0).write(5).snapshot('a').buildWithMap();
    const { walked } = await opened(built.bytes);
    const { clusters } = walked;
    const kindAt = (name: string) => clusters.kind(built.where(name));
    expect(clusters.kind(0)).toBe(Kind.header);
    expect(kindAt('refcount table')).toBe(Kind.refcountTable);
    expect(kindAt('refcount block 0')).toBe(Kind.refcountBlock);
    expect(kindAt('snapshot table')).toBe(Kind.snapshotTable);
    expect(kindAt('L2 active:0')).toBe(Kind.l2Table);
    expect(kindAt('data active:5')).toBe(Kind.data);
    for (const table of ['L1', 'L1 of 1']) {
      // 100 entries of 8 bytes: two clusters.
      for (const i of [0, 1]) expect(clusters.kind(built.where(table) + i)).toBe(Kind.l1Table);
    }
    expect(walked).toMatchObject({ live: clusters.count, junk: 0, findings: { corruptions: 0, leaks: 0 } });
  });

  test('paths, not pointers: a table that n L1 tables share gives each of its clusters n', async () => {
    const built = image().writeRange(0, 3).snapshot('a').snapshot('b').buildWithMap();
    const { clusters } = (await opened(built.bytes)).walked;
    for (const name of ['L2 active:0', 'data active:0', 'data active:2']) {
      expect(clusters.refs[built.where(name)]).toBe(3);
    }
  });

  test('a cluster that several L2 tables lead to', async () => {
    const built = image().writeRange(0, 3).snapshot('a').snapshot('b').write(0).buildWithMap();
    const { clusters } = (await opened(built.bytes)).walked;
    const refsOf = (name: string) => clusters.refs[built.where(name)];
    expect(refsOf('L2 active:0')).toBe(1);
    expect(refsOf('L2 1:0')).toBe(2);
    expect(refsOf('data active:0')).toBe(1);
    expect(refsOf('data 1:0')).toBe(2);
    expect(refsOf('data active:1')).toBe(3);
    expect(clusters.isActive(built.where('L2 active:0'))).toBe(true);
    expect(clusters.isActive(built.where('L2 1:0'))).toBe(false);
  });

  test('two guest clusters that share a host cluster, and one L2 table in two places of an L1 table', async () => {
    const built = image().write(0).alias(0, 7).buildWithMap();
    expect((await opened(built.bytes)).walked.clusters.refs[built.where('data active:0')]).toBe(2);
  });

  test('zero clusters: those with a host cluster refer to it, plain ones to nothing', async () => {
    const built = image().zero(0, { allocated: true }).zero(1).discard(2).buildWithMap();
    const { clusters } = (await opened(built.bytes)).walked;
    expect(clusters.refs[built.where('data active:0')]).toBe(1);
    expect(clusters.count).toBe(6);
  });

  test('junk and leaks apart', async () => {
    const bytes = image().writeRange(0, 4).layout({ junk: 3, leaks: 2, overcounted: 1 }).build();
    const { walked } = await opened(bytes);
    expect(walked).toMatchObject({ junk: 5, findings: { corruptions: 0, leaks: 3 } });
    expect(walked.findings.words).toHaveLength(3);
    for (const words of walked.findings.words)
      expect(words).toMatch(/^Leaked cluster \d+ refcount=\d+ reference=\d+$/);
    expect(() => requireSound(walked)).not.toThrow();
  });

  test('junk that no refcount block describes, without arrays for it', async () => {
    const bytes = new Uint8Array(10_000_000);
    bytes.set(image().write(0).build());
    const { walked, image: found } = await opened(bytes);
    expect(found.mappedClusters).toBe(256);
    expect(walked.junk).toBe(Math.ceil(bytes.length / 512) - 6);
  });

  test('what an independent checker counts, in random images', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 200 });
      const expected = inspect(bytes);
      const { live, junk, findings } = (await opened(bytes)).walked;
      expect({ live, corruptions: findings.corruptions, leaks: findings.leaks }, description).toEqual({
        live: expected.liveClusters,
        corruptions: 0,
        leaks: expected.leaks,
      });
      expect(live + junk, description).toBe(expected.clusterCount);
    }
  });

  test('the loop for ordinary entries changes nothing, in damaged images either', async () => {
    for (let seed = 1; seed <= 150; seed++) {
      const { bytes, description } = randomImage(seed, { maxClusters: 200 });
      const damaged = damage(bytes, (await opened(bytes)).walked, new Random(seed));
      const { image: found, walked } = await opened(damaged).catch(() => ({ image: null, walked: null }));
      if (found === null) continue;
      const slow = new Census(found);
      slow.takeOrdinary = (_, from) => from;
      await visitReferences(found, slow.clusters, slow);
      const counted = slow.compareCounts();
      expect({ live: walked.live, junk: walked.junk }, description).toEqual(counted);
      expect(walked.findings, description).toEqual(slow.findings);
      expect(walked.clusters, description).toEqual(slow.clusters);
    }
  });

  test('which entries lack COPIED though only they lead to their cluster', async () => {
    const built = image().writeRange(0, 2).buildWithMap();
    const data = built.where('data active:1');
    // A leak in use: the count is 2, so COPIED is rightly clear.
    const block = built.where('refcount block 0') * 512;
    const overcounted = built.bytes.slice();
    overcounted[block + data * 2 + 1] = 2;
    const entry = built.where('L2 active:0') * 512 + 8;
    const bytes = withWord(overcounted, entry, (word) => word & ~(1n << 63n));
    const { walked } = await opened(bytes);
    expect(walked.findings).toMatchObject({ corruptions: 0, leaks: 1 });
    expect(walked.clusters.needsFlag(data)).toBe(true);
    expect(walked.clusters.needsFlag(built.where('data active:0'))).toBe(false);
  });
});

describe('a walk finds', () => {
  const COPIED = 1n << 63n;
  const clusterBytes = 4096;
  const base = (): ImageBuilder => image({ clusterBits: 12 }).writeRange(0, 3);

  interface Damage {
    at: string;
    entry?: number;
    change: (word: bigint, where: (name: string) => bigint) => bigint;
    words: RegExp;
    builder?: () => ImageBuilder;
  }

  const data = 'data active:0';
  const damages: Record<string, Damage> = {
    'an L2 table that is not aligned': {
      at: 'L1',
      change: (word) => word + 512n,
      words: /^ERROR L2 table at 0x[0-9a-f]+200 is not aligned to the cluster size \(at 0x3000\)$/,
    },
    'data that is not aligned': {
      at: 'L2 active:0',
      entry: 1,
      change: (word) => word + 1024n,
      words: /^ERROR data at 0x6400 is not aligned to the cluster size \(at 0x4008\)$/,
    },
    'an L2 table beyond the end of the file': {
      at: 'L1',
      change: () => COPIED | 0x1000000n,
      words: /^ERROR L2 table at 0x1000000 lies beyond the end of the file \(at 0x3000\)$/,
    },
    'data beyond the end of the file': {
      at: 'L2 active:0',
      change: () => COPIED | 0x8000n,
      words: /^ERROR data at 0x8000 lies beyond the end of the file \(at 0x4000\)$/,
    },
    'data far beyond what a number holds': {
      at: 'L2 active:0',
      change: () => COPIED | 0xfffffffffff000n,
      words: /^ERROR data at 0x[0-9a-f]+ lies beyond the end of the file \(at 0x4000\)$/,
    },
    'data in the L1 table': {
      at: 'L2 active:0',
      change: (_, where) => COPIED | where('L1'),
      words: /^ERROR cluster at 0x3000 is used as L1 table and as data \(at 0x4000\)$/,
    },
    'data in the refcount table': {
      at: 'L2 active:0',
      change: (_, where) => COPIED | where('refcount table'),
      words: /^ERROR cluster at 0x1000 is used as refcount table and as data \(at 0x4000\)$/,
    },
    'data in a refcount block': {
      at: 'L2 active:0',
      change: (_, where) => COPIED | where('refcount block 0'),
      words: /^ERROR cluster at 0x2000 is used as refcount block and as data \(at 0x4000\)$/,
    },
    'a table that is its own data': {
      at: 'L2 active:0',
      change: (_, where) => COPIED | where('L2 active:0'),
      words: /^ERROR cluster at 0x4000 is used as L2 table and as data \(at 0x4000\)$/,
    },
    'an L2 table in the L1 table': {
      at: 'L1',
      change: (_, where) => COPIED | where('L1'),
      words: /^ERROR cluster at 0x3000 is used as L1 table and as L2 table \(at 0x3000\)$/,
    },
    'a second reference that the refcount does not explain': {
      at: 'L2 active:0',
      entry: 5,
      change: (_, where) => COPIED | where(data),
      words: /^ERROR cluster 5 refcount=1 reference=2 \(at 0x5000\)$/,
    },
    'reserved bits of an L1 entry': {
      at: 'L1',
      change: (word) => word | (1n << 57n),
      words: /^ERROR reserved bits are set in an L1 entry \(at 0x3000\)$/,
    },
    'reserved bits of an L2 entry': {
      at: 'L2 active:0',
      entry: 2,
      change: (word) => word | 4n,
      words: /^ERROR reserved bits are set in an L2 entry \(at 0x4010\)$/,
    },
    'a zero cluster in version 2': {
      at: 'L2 active:0',
      entry: 2,
      change: (word) => word | 1n,
      words: /^ERROR reserved bits are set in an L2 entry \(at 0x4010\)$/,
      builder: () => image({ clusterBits: 12, version: 2 }).writeRange(0, 3),
    },
    'an L1 entry that lacks COPIED': {
      at: 'L1',
      change: (word) => word & ~COPIED,
      words: /^ERROR the COPIED flag is clear with a refcount of 1 \(at 0x3000\)$/,
    },
    'an L2 entry that lacks COPIED': {
      at: 'L2 active:0',
      change: (word) => word & ~COPIED,
      words: /^ERROR the COPIED flag is clear with a refcount of 1 \(at 0x4000\)$/,
    },
    'COPIED on a cluster that is shared': {
      at: 'L1',
      change: (word) => word | COPIED,
      words: /^ERROR the COPIED flag is set with a refcount of 2 \(at 0x3000\)$/,
      builder: () =>
        base()
          .snapshot('a')
          .layout({ arrange: (units) => [...units].sort((a, b) => rank(a.name) - rank(b.name)) }),
    },
    'a header that has no count': {
      at: 'refcount block 0',
      change: (word) => word & ((1n << 48n) - 1n),
      words: /^ERROR cluster 0 refcount=0 reference=1 \(at 0x0\)$/,
    },
    'a count that is too low': {
      at: 'refcount block 0',
      entry: 1,
      change: (word) => word & ~(0xffffn << 32n),
      // COPIED is wrong then too.
      words:
        /^ERROR (cluster 5 refcount=0 reference=1 \(at 0x5000\)|the COPIED flag is set with a refcount of 0 \(at 0x4000\))$/,
    },
  };
  const rank = (name: string) =>
    ['refcount table', 'refcount block', 'L1', 'L2', 'data'].findIndex((k) => name.startsWith(k)) >>> 0;

  test.each(Object.keys(damages))('%s, and says where', async (name) => {
    const { at, entry = 0, change, words, builder = base } = damages[name]!;
    const built = builder().buildWithMap();
    const where = (unit: string) => BigInt(built.where(unit) * clusterBytes);
    const bytes = withWord(built.bytes, Number(where(at)) + entry * 8, (word) => change(word, where));
    expect(inspect(bytes).corruptions).not.toEqual([]);
    const { walked, recorder } = await opened(bytes);
    expect(walked.findings.corruptions).toBeGreaterThan(0);
    expect(
      walked.findings.words.filter((found) => words.test(found)),
      walked.findings.words.join('\n'),
    ).not.toEqual([]);
    expect(() => requireSound(walked)).toThrow(/^the image is damaged: .*it was left untouched/);
    expect(() => requireSound(walked)).toThrow(expect.objectContaining({ code: 'CORRUPT' }) as Error);
    expect(recorder.log).toEqual([]);
  });

  test('more references than a count can hold', async () => {
    const built = image({ refcountOrder: 0 }).write(0).write(1).buildWithMap();
    const l2 = built.where('L2 active:0') * 512;
    const bytes = built.bytes.slice();
    bytes.copyWithin(l2 + 8, l2, l2 + 8);
    const { findings } = (await opened(bytes)).walked;
    const words = `ERROR more references to cluster ${built.where('data active:0')} than a refcount can hold`;
    expect(
      findings.words.some(
        (found) => found.startsWith(words) && found.includes(`(at 0x${(l2 + 8).toString(16)})`),
      ),
    ).toBe(true);
  });

  test('references into a range without a refcount block', async () => {
    // 512-byte clusters and 64-bit counts: a block describes 64 clusters.
    const built = image({ clusterBits: 9, refcountOrder: 6 })
      .writeRange(0, 63)
      .writeRange(64, 63)
      .buildWithMap();
    const table = built.where('refcount table') * 512;
    const wordsWithout = async (index: number) => {
      const bytes = withWord(built.bytes, table + index * 8, () => 0n);
      return (await opened(bytes)).walked.findings.words;
    };
    // In the middle of the file such a range has counts of 0; at its end nothing is kept in memory for it.
    expect(
      (await wordsWithout(1)).some((words) => /^ERROR cluster 64 refcount=0 reference=1/.test(words)),
    ).toBe(true);
    const atTheEnd = /^ERROR data at 0x[0-9a-f]+ has no refcount block that describes it \(at 0x/;
    expect((await wordsWithout(2)).some((words) => atTheEnd.test(words))).toBe(true);
  });

  test('at most 100 findings in words, the counts go on', async () => {
    const { findings } = (await opened(image().write(0).layout({ leaks: 150 }).build())).walked;
    expect(findings.leaks).toBe(150);
    expect(findings.words).toHaveLength(100);
  });

  test('several at once, all counted, the first in the refusal', async () => {
    const built = base().buildWithMap();
    const l2 = built.where('L2 active:0') * clusterBytes;
    let { bytes } = built;
    for (let i = 0; i < 3; i++) bytes = withWord(bytes, l2 + i * 8, (word) => word | 2n);
    const { walked } = await opened(bytes);
    expect(walked.findings.corruptions).toBe(3);
    expect(() => requireSound(walked)).toThrow(
      /reserved bits are set in an L2 entry \(at 0x4000\) \(and 2 more\)/,
    );
  });

  describe('a compressed cluster', () => {
    /** Entry 1 of the first L2 table becomes a descriptor of `moreSectors + 1` sectors at `offset`. */
    async function withDescriptor(offset: bigint, moreSectors: bigint, flags = 0n) {
      const built = base().buildWithMap();
      const l2 = built.where('L2 active:0') * clusterBytes;
      const border = BigInt(62 - (Math.log2(clusterBytes) - 8));
      const word = (1n << 62n) | flags | (moreSectors << border) | offset;
      return opened(withWord(built.bytes, l2 + 8, () => word));
    }
    const places = base().buildWithMap();
    const end = BigInt(places.bytes.length);

    test('counts for every cluster that it touches', async () => {
      const { walked } = await withDescriptor(end - 600n, 1n);
      const clusters = [...walked.clusters.ofKind(Kind.compressed)];
      const touched = new Set([end - 600n, end - 1n].map((at) => Number(at) >> Math.log2(clusterBytes)));
      // Clusters that something else uses are corruptions, counted below.
      expect(walked.findings.corruptions + clusters.length).toBeGreaterThanOrEqual(touched.size);
    });

    test.each([
      ['with COPIED', end - 512n, 0n, 1n << 63n, /a compressed cluster has the COPIED flag/],
      [
        'beyond the end of the file',
        end + 4096n,
        0n,
        0n,
        /compressed data at 0x[0-9a-f]+ lies beyond the end of the file/,
      ],
      ['in the header', 100n, 0n, 0n, /is used as header and as compressed data/],
    ])('%s is a corruption', async (_, offset, moreSectors, flags, words) => {
      const { walked } = await withDescriptor(offset, moreSectors, flags);
      expect(walked.findings.words.join('\n')).toMatch(words);
      expect(() => requireSound(walked)).toThrow();
    });
  });
});

/** A few bits of L2 entries flipped, a few entries that name what another one names, a few refcounts changed. */
function damage(bytes: Uint8Array, { clusters }: Walk, random: Random): Uint8Array {
  const clusterBytes = 2 ** bytes[23]!;
  const words = (kind: Kind) =>
    [...clusters.ofKind(kind)]
      .flatMap((cluster) =>
        Array.from({ length: clusterBytes / 8 }, (_, i) => cluster * clusterBytes + i * 8),
      )
      .filter((at) => at + 8 <= bytes.length);
  let damaged = bytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const entries = words(Kind.l2Table).filter((at) => view.getBigUint64(at) !== 0n);
  for (let i = random.int(4); i > 0 && entries.length > 0; i--) {
    const other = view.getBigUint64(random.pick(entries));
    const bit = 1n << BigInt(random.pick([0, 1, 8, 9, 10, 14, 20, 33, 47, 48, 55, 56, 61, 63]));
    const change = random.chance(0.5) ? (word: bigint) => word ^ bit : () => other;
    damaged = withWord(damaged, random.pick(entries), change);
  }
  for (let i = random.int(3); i > 0; i--) {
    damaged = withWord(damaged, random.pick(words(Kind.refcountBlock)), (word) => word ^ 1n);
  }
  return damaged;
}
