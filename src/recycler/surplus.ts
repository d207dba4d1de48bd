/**
 * What an image holds without need: L2 tables without an entry, which say what an empty L1 entry says, and, where
 * the user gives them up, preallocated clusters that read as zeroes (hazards 4.4, 4.6). Released before anything
 * moves: the references go first, and behind a barrier the refcounts come down. In every crash state between, the
 * guest sees the same, and what is not referred to any more is a leak.
 */
import { type BlockDevice, SECTOR } from '../device/block-device.js';
import { entryOffset } from '../format/entries.js';
import { l2EntryBytes } from '../format/header.js';
import { isZero, viewOf } from '../format/words.js';
import { type HostClusters, Kind } from '../image/host-clusters.js';
import type { Image } from '../image/image.js';
import { Flag, isPreallocated, l1Tables, visitReferences } from '../image/references.js';
import type { Walk } from '../image/walk.js';
import { changedSpans } from './reference-updater.js';

/** What was released, in memory. */
export interface Surplus {
  /** L2 tables without an entry. */
  tables: number;
  /** Preallocated clusters that nothing refers to any more. */
  preallocated: number;
  /** The same on disk; before it nothing is written. The refcounts are the caller's to write, after it. */
  write: () => Promise<void>;
}

/** L1 and L2 tables are changed in pieces of at most this much. */
const PIECE_BYTES = 1 << 20;

/**
 * Takes what is without need out of `walk` and the refcounts in memory: a plan, until `write` is called.
 * `dropPreallocation`: also preallocated clusters.
 */
export async function releaseSurplus(
  image: Image,
  walk: Walk,
  { dropPreallocation }: { dropPreallocation: boolean },
): Promise<Surplus> {
  const released = new Releases(image, walk.clusters);
  const empty = new Set(walk.emptyTables);
  const thinned = dropPreallocation ? walk.preallocatedTables : [];
  for (const table of thinned) {
    const { bytes } = await withoutPreallocated(image, table, (cluster) =>
      released.add(cluster, walk.clusters.refs[table]!),
    );
    if (isZero(bytes)) empty.add(table);
  }
  await remark(image, walk.clusters, released.unsure);
  const preallocated = released.count;
  for (const table of empty) released.add(table, walk.clusters.refs[table]!);
  walk.live -= released.count;
  walk.junk += released.count;
  const write = async () => {
    for (const table of thinned) {
      const { bytes, changed } = await withoutPreallocated(image, table);
      await writeChanged(image.device, bytes, changed, table * image.header.clusterBytes);
    }
    if (empty.size > 0) {
      for (const table of l1Tables(image)) await clearEntries(image, table.offset, table.entries, empty);
    }
    // However many clusters become free by it: no count may come down before its reference is gone for good (I3).
    if (released.references > 0) await image.device.flush();
  };
  return { tables: empty.size, preallocated, write };
}

/** References that are gone, by the cluster that they led to. */
class Releases {
  readonly #image: Image;
  readonly #clusters: HostClusters;
  /** References that are gone. */
  references = 0;
  /** Clusters that nothing refers to any more. */
  count = 0;
  /** Clusters that are still in use, of which it is not known whether an entry without COPIED still leads to them. */
  readonly unsure = new Set<number>();

  constructor(image: Image, clusters: HostClusters) {
    this.#image = image;
    this.#clusters = clusters;
  }

  /** What was a leak before stays one, to be reclaimed as such, and so does what only a move puts right (I3). */
  add(cluster: number, paths: number): void {
    const { refcounts } = this.#image;
    const { refs } = this.#clusters;
    const isExact = refcounts.get(cluster) === refs[cluster];
    this.references++;
    refs[cluster]! -= paths;
    if (refs[cluster] === 0) {
      this.#clusters.forget(cluster);
      this.unsure.delete(cluster);
      this.count++;
    } else if (this.#clusters.isUnflagged(cluster)) this.unsure.add(cluster);
    // In memory: on disk it comes down behind the barrier.
    if (isExact && !this.#clusters.needsFlag(cluster)) refcounts.set(cluster, refs[cluster]!);
  }
}

/** Marks those of `unsure` to which an active entry without COPIED leads that is not given up. */
async function remark(image: Image, clusters: HostClusters, unsure: ReadonlySet<number>): Promise<void> {
  if (unsure.size === 0) return;
  for (const cluster of unsure) clusters.unmarkUnflagged(cluster);
  await visitReferences(image, clusters, {
    reference(_slot, target, _count, kind, _paths, flags) {
      const remains = kind === Kind.data && (flags & Flag.active) !== 0 && (flags & Flag.unread) === 0;
      if (!remains || (flags & Flag.copied) !== 0) return;
      const cluster = target / image.header.clusterBytes;
      if (unsure.has(cluster)) clusters.markUnflagged(cluster);
    },
  });
}

/**
 * The L2 table at cluster `table` once every entry that does not read its cluster has let go of it, and where it
 * differs from the disk. `onRelease` is told of each such cluster.
 */
async function withoutPreallocated(
  { device, header }: Image,
  table: number,
  onRelease: (cluster: number) => void = () => undefined,
): Promise<{ bytes: Uint8Array; changed: number[] }> {
  const { clusterBytes } = header;
  const bytes = new Uint8Array(clusterBytes);
  await device.read(bytes, table * clusterBytes);
  const view = viewOf(bytes);
  const entryBytes = l2EntryBytes(header);
  const changed: number[] = [];
  for (let at = 0; at < clusterBytes; at += entryBytes) {
    const hi = view.getUint32(at);
    const lo = view.getUint32(at + 4);
    const allocated = entryBytes === 16 ? view.getUint32(at + 12) : undefined;
    if (!isPreallocated(hi, lo, allocated)) continue;
    onRelease(entryOffset(hi, lo) / clusterBytes);
    // The zero flag stays; that of extended entries is in their second word.
    view.setUint32(at, 0);
    view.setUint32(at + 4, lo & 1);
    changed.push(at);
  }
  return { bytes, changed };
}

/** Clears the entries of an L1 table that lead to one of `targets`. */
async function clearEntries(
  image: Image,
  offset: number,
  entries: number,
  targets: ReadonlySet<number>,
): Promise<void> {
  const { device, header } = image;
  // Whole sectors are written: what follows the last entry in its own stays as it is.
  const wholeSectors = Math.ceil((entries * 8) / SECTOR) * SECTOR;
  const buffer = new Uint8Array(Math.min(wholeSectors, PIECE_BYTES));
  for (let start = 0; start < wholeSectors; start += PIECE_BYTES) {
    const bytes = buffer.subarray(0, Math.min(PIECE_BYTES, wholeSectors - start));
    await device.read(bytes, offset + start);
    const view = viewOf(bytes);
    const changed: number[] = [];
    for (let at = 0; at < Math.min(bytes.length, entries * 8 - start); at += 8) {
      const target = entryOffset(view.getUint32(at), view.getUint32(at + 4));
      if (target === 0 || !targets.has(target / header.clusterBytes)) continue;
      bytes.fill(0, at, at + 8);
      changed.push(at);
    }
    await writeChanged(device, bytes, changed, offset + start);
  }
}

async function writeChanged(
  device: BlockDevice,
  bytes: Uint8Array,
  changed: number[],
  base: number,
): Promise<void> {
  for (const [from, to] of changedSpans(changed)) await device.write(bytes.subarray(from, to), base + from);
}
