/**
 * The walk: every reference counted, every cluster's use known, every inconsistency found (design 4.2).
 * Nothing is written before it has gone through the whole image without a corruption (I6).
 */
import { QcowError, hex } from '../errors.js';
import { HI_COPIED, LO_ZERO } from '../format/entries.js';
import { greatestCount } from '../format/refcounts.js';
import { TWO_32 } from '../format/words.js';
import { clusterOf, lastClusterOf } from './extents.js';
import { HostClusters, KIND_NAMES, Kind } from './host-clusters.js';
import type { Image } from './image.js';
import { Flag, type ReferenceVisitor, visitReferences } from './references.js';
import { readTables } from './table-reader.js';

/** Findings are kept in words up to this many; the counts go on. */
const MAX_FINDINGS = 100;

export interface Findings {
  corruptions: number;
  /** Clusters whose refcount is higher than their references, as `qemu-img check` counts them. */
  leaks: number;
  words: string[];
  /** In words; undefined where there is none. */
  firstCorruption?: string;
}

export interface Walk {
  clusters: HostClusters;
  findings: Findings;
  live: number;
  junk: number;
  /** L2 tables (host clusters) without an entry, and those with preallocated clusters that read as zeroes. */
  emptyTables: number[];
  preallocatedTables: number[];
}

/** The upper half of an ordinary entry, as the bit operations of JavaScript know it. */
const COPIED_ALONE = HI_COPIED | 0;

/** A visitor that counts references and notes what contradicts the format or the refcounts. */
export class Census implements ReferenceVisitor {
  readonly clusters: HostClusters;
  readonly findings: Findings = { corruptions: 0, leaks: 0, words: [] };
  readonly emptyTables: number[] = [];
  readonly preallocatedTables: number[] = [];
  readonly #image: Image;
  readonly #greatest: number;
  /** Clusters that something refers to. */
  #live = 0;

  constructor(image: Image) {
    this.#image = image;
    this.#greatest = greatestCount(image.header.refcountOrder);
    this.clusters = new HostClusters(image.mappedClusters);
    // Cluster 0 holds the header: it is referenced by being there, and never moves.
    if (image.mappedClusters > 0) this.#count(0, Kind.header, 1, 0);
    else this.#corruption('no refcount block describes the header', 0);
  }

  #corruption(what: string, slot: number): void {
    const words = `${what} (at ${hex(slot)})`;
    this.#say(`ERROR ${words}`);
    // Leaks may have taken all the room; the first corruption is what a refusal names.
    if (this.findings.corruptions++ === 0) this.findings.firstCorruption = words;
  }

  #say(words: string): void {
    if (this.findings.words.length < MAX_FINDINGS) this.findings.words.push(words);
  }

  emptyTable(cluster: number): void {
    this.emptyTables.push(cluster);
  }

  problem(what: string, slot: number): void {
    this.#corruption(what, slot);
  }

  reference(
    slot: number,
    target: number,
    clusterCount: number,
    kind: Kind,
    paths: number,
    flags: number,
  ): void {
    const { clusterBytes } = this.#image.header;
    if (target % clusterBytes !== 0) {
      this.#corruption(`${KIND_NAMES[kind]} at ${hex(target)} is not aligned to the cluster size`, slot);
      return;
    }
    const first = target / clusterBytes;
    if (!this.#isDescribed(first + clusterCount, kind, target, slot)) return;
    for (let cluster = first; cluster < first + clusterCount; cluster++) {
      this.#count(cluster, kind, paths, slot);
    }
    if (kind === Kind.l2Table || kind === Kind.data) this.#checkFlag(first, kind, flags, slot);
    if ((flags & Flag.unread) !== 0) {
      const table = Math.floor(slot / clusterBytes);
      if (this.preallocatedTables.at(-1) !== table) this.preallocatedTables.push(table);
    }
  }

  /** Whether what begins at `offset` and ends before cluster `end` is in the file, where refcounts describe it. */
  #isDescribed(end: number, kind: Kind, offset: number, slot: number): boolean {
    const { mappedClusters, fileClusters } = this.#image;
    if (end <= mappedClusters) return true;
    const what =
      end > fileClusters ? 'lies beyond the end of the file' : 'has no refcount block that describes it';
    this.#corruption(`${KIND_NAMES[kind]} at ${hex(offset)} ${what}`, slot);
    return false;
  }

  /** Each cluster that the extent touches has one reference more (hazard 6.2). */
  extent(slot: number, offset: number, lengthBytes: number, paths: number, flags: number): void {
    const { clusterBytes } = this.#image.header;
    if ((flags & Flag.copied) !== 0) this.#corruption('a compressed cluster has the COPIED flag', slot);
    const first = clusterOf(offset, clusterBytes);
    const last = lastClusterOf(offset, lengthBytes, clusterBytes);
    if (!this.#isDescribed(last + 1, Kind.compressed, offset, slot)) return;
    for (let cluster = first; cluster <= last; cluster++) this.#count(cluster, Kind.compressed, paths, slot);
  }

  /**
   * Ordinary: nothing, or a cluster that reads as zeroes and has no place; or, in an active table with one path to it,
   * a standard cluster of the file that nothing has referred to so far, refcount 1, COPIED set, every other bit 0. Says what `reference` would say of it, which is
   * nothing: written out, since this loop is half of what an image that is compact already costs.
   */
  takeOrdinary(halves: Int32Array, from: number, paths: number, active: boolean): number {
    if (!active || paths !== 1) return from;
    const { kinds, refs } = this.clusters;
    const { counts } = this.#image.refcounts;
    const { clusterBytes } = this.#image.header;
    const { none, data } = Kind;
    const end = this.clusters.count;
    const belowCluster = clusterBytes - 1;
    const shift = 31 - Math.clz32(clusterBytes);
    // Neighbours mostly agree in their upper half: `high`, whose first cluster is `base`.
    let high = COPIED_ALONE;
    let base = 0;
    // What a guest discards is left as such an entry where the version has the flag.
    const zero = this.#image.header.version >= 3 ? LO_ZERO : 0;
    let zeroes = 0;
    let i = from;
    for (; i < halves.length; i += 2) {
      const hi = halves[i]!;
      const lo = halves[i + 1]!;
      if (hi !== high) {
        if (hi === 0 && (lo | zero) === zero) {
          zeroes++;
          continue;
        }
        // Below 2^48; bit 31 is the sign.
        if ((hi & 0xffff_0000) !== COPIED_ALONE) break;
        high = hi;
        base = (hi & 0xffff) * (TWO_32 / clusterBytes);
      }
      if ((lo & belowCluster) !== 0) break;
      const cluster = base + (lo >>> shift);
      if (cluster >= end || kinds[cluster] !== none || counts[cluster] !== 1) break;
      kinds[cluster] = data;
      refs[cluster] = 1;
    }
    this.#live += (i - from) / 2 - zeroes;
    return i;
  }

  #count(cluster: number, kind: Kind, paths: number, slot: number): void {
    const { clusters } = this;
    const present = clusters.kind(cluster);
    // Data and L2 tables may be shared; everything else has one owner, and nobody is two things (hazard 4.11).
    const shareable =
      present === kind && (kind === Kind.data || kind === Kind.l2Table || kind === Kind.compressed);
    if (present !== Kind.none && !shareable) {
      const place = hex(cluster * this.#image.header.clusterBytes);
      this.#corruption(
        `cluster at ${place} is used as ${KIND_NAMES[present]} and as ${KIND_NAMES[kind]}`,
        slot,
      );
    } else clusters.setKind(cluster, kind);
    const refs = clusters.refs[cluster]! + paths;
    if (refs > this.#greatest) {
      this.#corruption(`more references to cluster ${cluster} than a refcount can hold`, slot);
      return;
    }
    if (refs > 0 && clusters.refs[cluster] === 0) this.#live++;
    clusters.refs[cluster] = refs;
  }

  /** COPIED must say exactly whether the refcount is 1, in active tables (hazard 4.3). */
  #checkFlag(cluster: number, kind: Kind, flags: number, slot: number): void {
    if ((flags & Flag.active) === 0) return;
    if (kind === Kind.l2Table) this.clusters.markActive(cluster);
    const copied = (flags & Flag.copied) !== 0;
    if (!copied) this.clusters.markUnflagged(cluster);
    const count = this.#image.refcounts.get(cluster);
    if (copied !== (count === 1)) {
      this.#corruption(`the COPIED flag is ${copied ? 'set' : 'clear'} with a refcount of ${count}`, slot);
    }
  }

  /** Holds the counts on disk against the references found. */
  compareCounts(): { live: number; junk: number } {
    const { header, fileClusters, refcounts } = this.#image;
    const end = this.clusters.count;
    const refs = this.clusters.refs.subarray(0, end);
    const counts = refcounts.counts.subarray(0, end);
    const result = { live: this.#live, junk: fileClusters - this.#live };
    // One memcmp says for most images that all is well.
    if (
      Buffer.compare(new Uint8Array(refs.buffer, 0, end * 4), new Uint8Array(counts.buffer, 0, end * 4)) === 0
    ) {
      return result;
    }
    for (let cluster = 0; cluster < end; cluster++) {
      const found = refs[cluster]!;
      const count = counts[cluster]!;
      if (count === found) continue;
      const words = `cluster ${cluster} refcount=${count} reference=${found}`;
      if (count < found) this.#corruption(words, cluster * header.clusterBytes);
      else {
        this.findings.leaks++;
        this.#say(`Leaked ${words}`);
      }
    }
    return result;
  }
}

/** Walks the whole image. Reads only; corruptions are counted, not thrown. */
export async function walk(image: Image): Promise<Walk> {
  const { device, header, refcounts } = image;
  const indexOf = new Map<number, number>();
  for (const i of refcounts.present) indexOf.set(refcounts.blocks[i]! / header.clusterBytes, i);
  const blockClusters = [...indexOf.keys()].sort((a, b) => a - b);
  await readTables(device, header.clusterBytes, blockClusters, (cluster, bytes) => {
    refcounts.load(indexOf.get(cluster)!, bytes);
  });
  const census = new Census(image);
  for (const { what, slot } of image.refcountFaults) census.problem(what, slot);
  await visitReferences(image, census.clusters, census);
  const { clusters, findings, emptyTables, preallocatedTables } = census;
  return { clusters, findings, emptyTables, preallocatedTables, ...census.compareCounts() };
}

/** Throws unless the walk found the image free of corruption. Leaks are no corruption. */
export function requireSound({ findings }: Walk): void {
  if (findings.corruptions === 0) return;
  throw new QcowError('CORRUPT', `the image is damaged: ${describeCorruption(findings)}`, {
    hint: 'it was left untouched; `--repair` mends what can be mended without a loss, as does `qemu-img check -r all`',
  });
}

/** The first corruption in words, and how many more there are. */
export function describeCorruption({ corruptions, firstCorruption }: Findings): string {
  return (firstCorruption ?? '') + (corruptions > 1 ? ` (and ${corruptions - 1} more)` : '');
}
