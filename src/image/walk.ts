/**
 * The walk: every reference counted, every cluster's use known, every inconsistency found (design 4.2).
 * Nothing is written before it has gone through the whole image without a corruption (I6).
 */
import { QcowError, hex } from '../errors.js';
import { greatestCount } from '../format/refcounts.js';
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
}

export interface Walk {
  clusters: HostClusters;
  findings: Findings;
  live: number;
  junk: number;
}

/** A visitor that counts references and notes what contradicts the format or the refcounts. */
class Census implements ReferenceVisitor {
  readonly clusters: HostClusters;
  readonly findings: Findings = { corruptions: 0, leaks: 0, words: [] };
  readonly #image: Image;
  readonly #greatest: number;

  constructor(image: Image) {
    this.#image = image;
    this.#greatest = greatestCount(image.header.refcountOrder);
    this.clusters = new HostClusters(image.mappedClusters);
    // Cluster 0 holds the header: it is referenced by being there, and never moves.
    if (image.mappedClusters > 0) this.#count(0, Kind.header, 1, 0);
    else this.#corruption('no refcount block describes the header', 0);
  }

  #corruption(what: string, slot: number): void {
    this.findings.corruptions++;
    this.#say(`ERROR ${what} (at ${hex(slot)})`);
  }

  #say(words: string): void {
    if (this.findings.words.length < MAX_FINDINGS) this.findings.words.push(words);
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
    if (first + clusterCount > this.#image.mappedClusters) {
      const beyond = first + clusterCount > this.#image.fileClusters;
      const what = beyond ? 'lies beyond the end of the file' : 'has no refcount block that describes it';
      this.#corruption(`${KIND_NAMES[kind]} at ${hex(target)} ${what}`, slot);
      return;
    }
    for (let cluster = first; cluster < first + clusterCount; cluster++) {
      this.#count(cluster, kind, paths, slot);
    }
    if (kind === Kind.l2Table || kind === Kind.data) this.#checkFlag(first, kind, flags, slot);
  }

  #count(cluster: number, kind: Kind, paths: number, slot: number): void {
    const { clusters } = this;
    const present = clusters.kind(cluster);
    // Data and L2 tables may be shared; everything else has one owner, and nobody is two things (hazard 4.11).
    const shareable = present === kind && (kind === Kind.data || kind === Kind.l2Table);
    if (present !== Kind.none && !shareable) {
      const place = hex(cluster * this.#image.header.clusterBytes);
      this.#corruption(
        `cluster at ${place} is used as ${KIND_NAMES[present]} and as ${KIND_NAMES[kind]}`,
        slot,
      );
      return;
    }
    clusters.setKind(cluster, kind);
    const refs = clusters.refs[cluster]! + paths;
    if (refs > this.#greatest) {
      this.#corruption(`more references to cluster ${cluster} than a refcount can hold`, slot);
      return;
    }
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
    const { clusters, findings } = this;
    const { refcounts, header, fileClusters } = this.#image;
    let live = 0;
    for (let cluster = 0; cluster < clusters.count; cluster++) {
      const refs = clusters.refs[cluster]!;
      const count = refcounts.get(cluster);
      if (refs > 0) live++;
      if (count === refs) continue;
      const words = `cluster ${cluster} refcount=${count} reference=${refs}`;
      if (count < refs) this.#corruption(words, cluster * header.clusterBytes);
      else {
        findings.leaks++;
        this.#say(`Leaked ${words}`);
      }
    }
    return { live, junk: fileClusters - live };
  }
}

/** Walks the whole image. Reads only; corruptions are counted, not thrown. */
export async function walk(image: Image): Promise<Walk> {
  const { device, header, refcounts } = image;
  const indexOf = new Map<number, number>();
  for (let i = 0; i < refcounts.blocks.length; i++) {
    const block = refcounts.blocks[i]!;
    if (block !== 0) indexOf.set(block / header.clusterBytes, i);
  }
  const blockClusters = [...indexOf.keys()].sort((a, b) => a - b);
  await readTables(device, header.clusterBytes, blockClusters, (cluster, bytes) => {
    refcounts.load(indexOf.get(cluster)!, bytes);
  });
  const census = new Census(image);
  await visitReferences(image, census.clusters, census);
  return { clusters: census.clusters, findings: census.findings, ...census.compareCounts() };
}

/** Throws unless the walk found the image free of corruption. Leaks are no corruption. */
export function requireSound({ findings }: Walk): void {
  if (findings.corruptions === 0) return;
  const first = findings.words.find((words) => words.startsWith('ERROR '));
  const more = findings.corruptions > 1 ? ` (and ${findings.corruptions - 1} more)` : '';
  throw new QcowError('CORRUPT', `the image is damaged: ${first?.slice('ERROR '.length)}${more}`, {
    hint: 'it was left untouched; look at `qemu-img check`, and repair or restore it first',
  });
}
