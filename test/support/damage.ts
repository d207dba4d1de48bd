/**
 * Damages images as crashes, bugs and lazy refcounts do. Written from the specification alone, like the oracle. What
 * `mendableDamage` does loses nothing of the guest's; what `lossyDamage` does, nobody can undo.
 */
import { readLayout, readOffset, type ImageLayout } from './oracle-layout.js';
import { Random } from './random.js';

export interface Damaged {
  readonly bytes: Uint8Array;
  /** What was done, in words. */
  readonly description: string;
}

/** An entry of an L1 or L2 table of the active layer. */
interface Entry {
  readonly slot: number;
  readonly kind: 'L2 table' | 'data' | 'compressed' | 'external';
}

/** An image under damage; `bytes` is its own. */
class Patient {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly layout: ImageLayout;

  constructor(
    readonly random: Random,
    bytes: Uint8Array,
  ) {
    this.bytes = bytes.slice();
    this.view = new DataView(this.bytes.buffer);
    const layout = readLayout(bytes);
    if (typeof layout === 'string') throw new Error(layout);
    this.layout = layout;
  }

  /** Slots of the refcount table, of which the last cluster may be there in part. */
  tableSlots(): number[] {
    const { refcountTableOffset, refcountTableClusters, clusterSize } = this.layout;
    const end = Math.min(refcountTableOffset + refcountTableClusters * clusterSize, this.bytes.length - 7);
    const count = Math.floor((end - refcountTableOffset) / 8);
    return Array.from({ length: count }, (_, index) => refcountTableOffset + index * 8);
  }

  present(): number[] {
    return this.tableSlots().filter((slot) => readOffset(this.view, slot) !== 0);
  }

  /** Where the refcount of `cluster` is, in bits from the start of the file; null where no block has it. */
  private bitOf(cluster: number): number | null {
    const { refcountOrder, clusterSize } = this.layout;
    const perBlock = (clusterSize * 8) >>> refcountOrder;
    const slot = this.tableSlots()[Math.floor(cluster / perBlock)];
    const block = slot === undefined ? 0 : readOffset(this.view, slot);
    if (block === 0 || block + clusterSize > this.bytes.length) return null;
    return block * 8 + (cluster % perBlock) * 2 ** refcountOrder;
  }

  refcount(cluster: number): number | null {
    const bit = this.bitOf(cluster);
    if (bit === null) return null;
    const { refcountOrder } = this.layout;
    if (refcountOrder >= 3) {
      let value = 0;
      for (let i = 0; i < 2 ** (refcountOrder - 3); i++) value = value * 256 + this.bytes[bit / 8 + i]!;
      return value;
    }
    return (this.bytes[bit >>> 3]! >>> (bit & 7)) & (2 ** (2 ** refcountOrder) - 1);
  }

  setRefcount(cluster: number, value: number): void {
    const bit = this.bitOf(cluster);
    if (bit === null) return;
    const { refcountOrder } = this.layout;
    if (refcountOrder >= 3) {
      const length = 2 ** (refcountOrder - 3);
      for (let i = length - 1, rest = value; i >= 0; i--, rest = Math.floor(rest / 256)) {
        this.bytes[bit / 8 + i] = rest % 256;
      }
      return;
    }
    const mask = (2 ** (2 ** refcountOrder) - 1) << (bit & 7);
    this.bytes[bit >>> 3] = (this.bytes[bit >>> 3]! & ~mask) | (value << (bit & 7));
  }

  activeEntries(): Entry[] {
    const { l1Offset, l1Size, clusterSize, l2EntrySize, dataFile } = this.layout;
    const entries: Entry[] = [];
    const l1End = Math.min(l1Offset + l1Size * 8, this.bytes.length - 7);
    for (let slot = l1Offset; slot < l1End; slot += 8) {
      const table = this.target(slot);
      if (table === 0) continue;
      entries.push({ slot, kind: 'L2 table' });
      const end = Math.min(table + clusterSize, this.bytes.length - 7);
      for (let at = table; at < end; at += l2EntrySize) {
        const high = this.view.getUint32(at);
        if (dataFile && this.target(at) !== 0) entries.push({ slot: at, kind: 'external' });
        else if (dataFile) continue;
        else if ((high & 0x40000000) !== 0) entries.push({ slot: at, kind: 'compressed' });
        else if (this.target(at) !== 0) entries.push({ slot: at, kind: 'data' });
      }
    }
    return entries;
  }

  target(slot: number): number {
    return (this.view.getUint32(slot) & 0xffffff) * 2 ** 32 + ((this.view.getUint32(slot + 4) & ~511) >>> 0);
  }

  some<T>(all: readonly T[], most: number): T[] {
    return this.random.shuffle([...all]).slice(0, this.random.between(1, most));
  }

  anyCluster(): number {
    return this.random.int(this.layout.clusterCount);
  }
}

type Damage = (patient: Patient) => string | null;

const lowerCounts: Damage = (patient) => {
  const clusters = Array.from({ length: patient.layout.clusterCount }, (_, cluster) => cluster);
  const counted = clusters.filter((cluster) => (patient.refcount(cluster) ?? 0) > 0);
  if (counted.length === 0) return null;
  const chosen = patient.random.chance(0.1) ? counted : patient.some(counted, 12);
  for (const cluster of chosen) {
    patient.setRefcount(cluster, patient.random.int(patient.refcount(cluster)!));
  }
  return `counts lowered: ${chosen.length}`;
};

const raiseCounts: Damage = (patient) => {
  const most = 2 ** Math.min(2 ** patient.layout.refcountOrder, 40) - 1;
  const raised = patient.random.between(1, 12);
  for (let i = 0; i < raised; i++) {
    const cluster = patient.anyCluster();
    const count = patient.refcount(cluster);
    if (count === null || count >= most) continue;
    patient.setRefcount(cluster, patient.random.chance(0.2) ? most : count + 1);
  }
  return `counts raised: ${raised}`;
};

const flipFlags: Damage = (patient) => {
  const entries = patient.activeEntries();
  if (entries.length === 0) return null;
  const chosen = patient.random.chance(0.1) ? entries : patient.some(entries, 12);
  for (const { slot } of chosen) patient.bytes[slot]! ^= 0x80;
  return `flags flipped: ${chosen.length}`;
};

const dropBlocks: Damage = (patient) => {
  const dropped = patient.some(patient.present(), 3);
  for (const slot of dropped) patient.view.setBigUint64(slot, 0n);
  return `blocks dropped: ${dropped.length}`;
};

const breakTable: Damage = (patient) => {
  const { clusterSize, clusterCount } = patient.layout;
  const entries = patient.random.pick([patient.present(), patient.tableSlots()]);
  if (entries.length === 0) return null;
  const slot = patient.random.pick(entries);
  const [what, value] = patient.random.pick([
    ['unaligned', clusterSize + 512 * patient.random.int(2) + 8],
    ['beyond the end', (clusterCount + patient.random.int(1000)) * clusterSize],
    ['far beyond the end', 2 ** 50],
    ['with reserved bits', readOffset(patient.view, slot) + 1],
    ['naming another cluster', patient.random.between(1, clusterCount) * clusterSize],
  ] as [string, number][]);
  patient.view.setBigUint64(slot, BigInt(value));
  return `refcount table entry at ${slot} ${what}`;
};

const loseTable: Damage = (patient) => {
  const { clusterSize, clusterCount } = patient.layout;
  const cluster = patient.random.pick([
    clusterCount - 1,
    clusterCount,
    clusterCount + 7,
    patient.anyCluster() + 1,
  ]);
  patient.view.setBigUint64(48, BigInt(Math.max(1, cluster) * clusterSize));
  return `refcount table at cluster ${cluster}`;
};

const mark =
  (bit: number): Damage =>
  (patient) => {
    if (patient.layout.version < 3) return null;
    patient.bytes[79]! |= bit;
    return bit === 1 ? 'dirty' : 'corrupt';
  };

export const DAMAGE = {
  lowerCounts,
  raiseCounts,
  flipFlags,
  dropBlocks,
  breakTable,
  loseTable,
  dirty: mark(1),
  corrupt: mark(2),
};
export type DamageName = keyof typeof DAMAGE;

/** How many of the damaged images have each. */
const SHARES: Record<DamageName, number> = {
  lowerCounts: 0.5,
  raiseCounts: 0.5,
  flipFlags: 0.4,
  dropBlocks: 0.2,
  breakTable: 0.1,
  loseTable: 0.05,
  dirty: 0.5,
  corrupt: 0.2,
};

/** One to all kinds of damage to what can be made anew from the references. */
export function mendableDamage(random: Random, bytes: Uint8Array): Damaged {
  const names = Object.keys(SHARES) as DamageName[];
  for (;;) {
    const damaged = damage(
      random,
      bytes,
      names.filter((name) => random.chance(SHARES[name])),
    );
    if (damaged.description !== '') return damaged;
  }
}

/** Each kind in turn; the refcount table comes last, since the others go by it. */
export function damage(random: Random, bytes: Uint8Array, names: readonly DamageName[]): Damaged {
  const patient = new Patient(random, bytes);
  const done = names.map((name) => DAMAGE[name](patient)).filter((what) => what !== null);
  return { bytes: patient.bytes, description: done.join(', ') };
}

/** Makes one entry of an active table, of any that has some, lead where it cannot; null where no table has any. */
export function lossyDamage(random: Random, bytes: Uint8Array): Damaged | null {
  const patient = new Patient(random, bytes);
  const { clusterSize, clusterCount } = patient.layout;
  const entries = patient.activeEntries().filter(({ kind }) => kind === 'data' || kind === 'L2 table');
  if (entries.length === 0) return null;
  const { slot, kind } = random.pick(entries);
  const isTable = kind === 'L2 table';
  const other = entries.find((entry) => (entry.kind === 'L2 table') !== isTable);
  const places: [string, number][] = [
    ['beyond the end', (clusterCount + random.int(100)) * clusterSize],
    ['to the L1 table', patient.layout.l1Offset],
    ['to what is no cluster of its own', clusterSize * random.between(1, clusterCount) + 512],
    ...(other === undefined ? [] : [['to another kind', patient.target(other.slot)] as [string, number]]),
  ];
  const usable = clusterSize === 512 ? places.filter(([what]) => !what.includes('no cluster')) : places;
  const [what, offset] = random.pick(usable);
  patient.view.setBigUint64(slot, (patient.view.getBigUint64(slot) & ~0x00fffffffffffe00n) | BigInt(offset));
  if (random.chance(0.5)) mark(1)(patient);
  if (random.chance(0.5)) lowerCounts(patient);
  return { bytes: patient.bytes, description: `${kind} entry at ${slot} ${what}` };
}

/** A copy in which every cluster of an external data file has its COPIED flag. */
export function withExternalFlags(bytes: Uint8Array): Uint8Array {
  const patient = new Patient(new Random(0), bytes);
  for (const { slot, kind } of patient.activeEntries()) if (kind === 'external') patient.bytes[slot]! |= 0x80;
  return patient.bytes;
}
