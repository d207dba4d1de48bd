/** A damaged image, its repair, and what is wrong with the result. */
import { compactDevice } from '../../src/compactor/compact.js';
import { repairDevice } from '../../src/compactor/repair.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { mendableDamage } from '../support/damage.js';
import {
  compareGuestView,
  guestView,
  inspect,
  minimalClusterCount,
  refcountsLimitSharing,
} from '../support/oracle.js';
import { hasLongTables } from '../support/oracle-layout.js';
import { type RandomImage, type RandomImageOverrides, randomImage } from '../support/random-image.js';
import { Random } from '../support/random.js';

export interface DamagedImage {
  sound: Uint8Array;
  bytes: Uint8Array;
  description: string;
}

const FEATURES: RandomImageOverrides[] = [
  {},
  {},
  {},
  { compressed: true },
  { features: { encryption: 2 } },
  { version: 3, features: { dataFile: true } },
  { version: 3, clusterBits: 14, features: { extendedL2: true } },
];

/** Any feature, cluster size and refcount width. */
export function anyImage(seed: number, overrides: RandomImageOverrides = {}): RandomImage {
  // Few of the largest clusters: each takes as long as twenty others.
  const features = seed % 65 === 0 ? { clusterBits: 21, maxClusters: 10 } : FEATURES[seed % FEATURES.length];
  return randomImage(seed, { ...features, ...overrides });
}

/** Overrides for small ones, as crash tests want them. */
export function small(seed: number): RandomImageOverrides {
  const { features } = FEATURES[seed % FEATURES.length]!;
  return { maxClusters: 60, ...(features?.extendedL2 === true ? {} : { clusterBits: 9 }) };
}

export function damagedImage(seed: number, overrides: RandomImageOverrides = {}): DamagedImage {
  const { bytes: sound, description } = anyImage(seed, overrides);
  const damaged = mendableDamage(new Random(seed ^ 0xda3a9e), sound);
  return { sound, bytes: damaged.bytes, description: `${damaged.description}\n  ${description}` };
}

/** What the guest sees of `sound`, held against a repaired image. */
export class RepairJudge {
  readonly #view;
  readonly minimal: number;

  constructor(readonly sound: Uint8Array) {
    this.#view = guestView(sound.slice());
    this.minimal = minimalClusterCount(sound);
  }

  get clusterSize(): number {
    return this.#view.layout.clusterSize;
  }

  get isPinned(): boolean {
    return this.#view.layout.encryptionHeader !== null;
  }

  /** Marks say nothing to the guest. */
  changeOf(bytes: Uint8Array): string | null {
    const unmarked = bytes.slice();
    if (unmarked[7] === 3) unmarked[79]! &= ~3;
    const difference = compareGuestView(this.#view, unmarked);
    return difference === null ? null : `the guest view changed: ${difference}`;
  }

  /** Of an image that was repaired: no corruption, no leak, no mark. */
  flawOf(bytes: Uint8Array): string | null {
    const { corruptions, leaks, staleRefcountsPastEnd } = inspect(bytes);
    if (corruptions.length > 0) return `corrupt: ${corruptions[0]}`;
    if (leaks + staleRefcountsPastEnd > 0) return `${leaks} leaks, ${staleRefcountsPastEnd} past the end`;
    return this.changeOf(bytes);
  }

  /** Of one that was compacted too. */
  lengthFlawOf(bytes: Uint8Array): string | null {
    const { clusterCount } = inspect(bytes);
    if (refcountsLimitSharing(this.sound)) return null;
    if (this.isPinned && hasLongTables(this.#view.layout) && clusterCount > this.minimal) return null;
    return clusterCount === this.minimal ? null : `${clusterCount} clusters, not ${this.minimal}`;
  }
}

/** Repairs and compacts, in two steps and in one, each again; says what is wrong with the results, or null. */
export async function repairFlaw({ sound, bytes }: DamagedImage): Promise<string | null> {
  const judge = new RepairJudge(sound);
  const repaired = new MemoryDevice(bytes);
  const { corruptions, leaks } = await repairDevice(repaired);
  if (corruptions + leaks > 0) return `${corruptions} corruptions and ${leaks} leaks were said to be left`;
  const flaw = judge.flawOf(repaired.bytes());
  if (flaw !== null) return `repaired: ${flaw}`;
  const before = repaired.bytes();
  if ((await repairDevice(repaired)).outcome !== 'clean') return 'the second repair found something to do';
  if (Buffer.compare(before, repaired.bytes()) !== 0) return 'the second repair changed the file';
  await compactDevice(repaired, { runtimeAsserts: true });
  const compacted = judge.flawOf(repaired.bytes()) ?? judge.lengthFlawOf(repaired.bytes());
  if (compacted !== null) return `compacted after the repair: ${compacted}`;

  const both = new MemoryDevice(bytes);
  const result = await compactDevice(both, { repair: 'all', runtimeAsserts: true });
  // Leaks of what LUKS encrypts are left: only a repair alone puts these right in place.
  const leavesLeaks = result.leaksLeft > 0 && result.repaired === null;
  const atOnce = leavesLeaks
    ? judge.changeOf(both.bytes())
    : (judge.flawOf(both.bytes()) ?? judge.lengthFlawOf(both.bytes()));
  const left = inspect(both.bytes());
  if (left.corruptions.length > 0 || left.leaks !== result.leaksLeft)
    return 'the leaks left are not those that were said';
  if (atOnce !== null) return `repaired and compacted at once: ${atOnce}`;
  return result.lengthBefore === bytes.length ? null : 'lengthBefore is not that of the file';
}
