/**
 * Clusters that must stay where they are, since their content is bound to their place: LUKS mixes the host offset
 * into what it encrypts, so that without the key a moved cluster decrypts to noise, which no check sees
 * (hazard 10.1). The encryption header stays, with the key too. Tables are not encrypted.
 */
import { ENCRYPTION, type Header } from '../format/header.js';
import { type HostClusters, Kind } from '../image/host-clusters.js';

/** Kinds of clusters that are pinned in an image with this header. `hasKey`: data can be encrypted anew. */
function pinnedKinds(header: Header, hasKey: boolean): Kind[] {
  if (header.encryption !== ENCRYPTION.luks) return [];
  return hasKey ? [Kind.encryptionHeader] : [Kind.encryptionHeader, Kind.data];
}

export function countPinned(header: Header, clusters: HostClusters, hasKey: boolean): number {
  let count = 0;
  for (const kind of pinnedKinds(header, hasKey)) for (const _ of clusters.ofKind(kind)) count++;
  return count;
}

export class Pins {
  readonly count: number;
  /** Data are among them. */
  readonly holdData: boolean;
  /** The last pinned cluster; -1 where nothing is pinned. */
  readonly last: number;
  /** One byte a cluster, 1 where it is pinned; empty where nothing is. */
  readonly #pinned: Uint8Array;
  /** How many stretches of each length there are between pinned clusters; made for the first table that asks. */
  #gaps: Map<number, number> | undefined;

  constructor(header: Header, clusters: HostClusters, hasKey: boolean) {
    const kinds = pinnedKinds(header, hasKey);
    let count = 0;
    let last = -1;
    this.#pinned = new Uint8Array(kinds.length === 0 ? 0 : clusters.count);
    for (const kind of kinds) {
      for (const cluster of clusters.ofKind(kind)) {
        this.#pinned[cluster] = 1;
        count++;
        last = Math.max(last, cluster);
      }
    }
    this.count = count;
    this.holdData = kinds.includes(Kind.data);
    this.last = last;
  }

  has(cluster: number): boolean {
    return this.#pinned[cluster] === 1;
  }

  /** Ascending. */
  *clusters(): Iterable<number> {
    for (let at = this.#pinned.indexOf(1); at >= 0; at = this.#pinned.indexOf(1, at + 1)) yield at;
  }

  /**
   * Clusters that a file with these pins and contiguous tables of these lengths has at least: a table that fits no
   * gap lies behind the last pin. Longest first, each in the smallest gap that holds it.
   */
  leastClusters(tables: readonly number[]): number {
    if (this.count === 0) return 0;
    const gaps = new Map(tables.length === 0 ? [] : (this.#gaps ??= this.#findGaps()));
    const add = (length: number, by: number) => {
      const left = (gaps.get(length) ?? 0) + by;
      if (left === 0) gaps.delete(length);
      else gaps.set(length, left);
    };
    let behind = 0;
    for (const table of [...tables].sort((a, b) => b - a)) {
      let best = Infinity;
      for (const length of gaps.keys()) if (length >= table && length < best) best = length;
      if (best === Infinity) behind += table;
      else {
        add(best, -1);
        if (best > table) add(best - table, 1);
      }
    }
    return this.last + 1 + behind;
  }

  #findGaps(): Map<number, number> {
    const gaps = new Map<number, number>();
    let before = 0;
    for (const cluster of this.clusters()) {
      const length = cluster - before - 1;
      if (length > 0) gaps.set(length, (gaps.get(length) ?? 0) + 1);
      before = cluster;
    }
    return gaps;
  }
}
