/** Damaged images of every kind that a repair mends in its own way, each small enough to crash anywhere. */
import type { DamageName } from '../support/damage.js';
import { damage } from '../support/damage.js';
import { type ImageBuilder, type ImageOptions, image } from '../support/image-builder.js';
import { Random } from '../support/random.js';

export interface RepairKind {
  name: string;
  image: ImageBuilder;
  damage: DamageName[];
}

/** Guest writes, a snapshot whose tables the active layer shares in part, and writes after it. */
function shared(options: ImageOptions = {}): ImageBuilder {
  return image({ virtualSize: 64 << 10, seed: 7, ...options })
    .writeRange(0, 12)
    .writeRange(64, 8)
    .snapshot('a')
    .writeRange(2, 4);
}

/** References that a crash left counted: they come down to 1 under entries without the flag. */
function unflagged(options: ImageOptions = {}): ImageBuilder {
  return image({ virtualSize: 64 << 10, seed: 7, ...options })
    .writeRange(0, 20)
    .snapshot('a')
    .writeRange(0, 3)
    .deleteSnapshot('a', { interrupted: true });
}

export const REPAIR_KINDS: RepairKind[] = [
  { name: 'only the dirty mark', image: shared(), damage: ['dirty'] },
  { name: 'the dirty mark and counts too low', image: shared(), damage: ['lowerCounts', 'dirty'] },
  {
    name: 'the dirty mark, and flags that are to be set',
    image: unflagged().layout({ shuffle: true, junk: 9 }),
    damage: ['dirty'],
  },
  { name: 'flags that say the contrary', image: shared(), damage: ['flipFlags'] },
  {
    name: 'flags and counts, both marks',
    image: shared({ refcountOrder: 3 }).layout({ junk: 5, shuffle: true }),
    damage: ['lowerCounts', 'raiseCounts', 'flipFlags', 'dirty', 'corrupt'],
  },
  { name: 'counts too low, version 2', image: shared({ version: 2 }), damage: ['lowerCounts', 'flipFlags'] },
  {
    name: 'counts too low, 1-bit refcounts',
    image: image({ virtualSize: 64 << 10, refcountOrder: 0, seed: 7 }).writeRange(0, 30),
    damage: ['lowerCounts', 'dirty'],
  },
  {
    name: 'refcount blocks lost, 64-bit refcounts',
    image: shared({ refcountOrder: 6 }).layout({ junk: 70, shuffle: true }),
    damage: ['raiseCounts', 'dropBlocks', 'dirty'],
  },
  {
    name: 'refcount blocks lost, and a file without a hole',
    image: shared({ refcountOrder: 6 }).writeRange(16, 40),
    damage: ['dropBlocks', 'flipFlags'],
  },
  {
    name: 'a damaged refcount table',
    image: shared({ refcountOrder: 5 }).layout({ junk: 30 }),
    damage: ['flipFlags', 'breakTable', 'corrupt'],
  },
  {
    name: 'a header that names another refcount table',
    image: shared().layout({ junk: 10 }),
    damage: ['loseTable', 'dirty'],
  },
  {
    name: 'compressed extents, clusters of 4 KiB, a tail that ends in a sector',
    image: image({ clusterBits: 12, virtualSize: 1 << 20, seed: 5 })
      .compressRange(0, 12)
      .snapshot('a')
      .compressRange(4, 4)
      .writeRange(9, 2)
      .layout({ shuffle: true, junk: 3, deadBytes: 0.3, compressedTail: true }),
    damage: ['lowerCounts', 'flipFlags', 'dirty'],
  },
  {
    name: 'extended L2 entries',
    image: image({ clusterBits: 14, extendedL2: true, virtualSize: 1 << 20, seed: 5 })
      .writeSubclusters(0, { zero: 0x8000_0000, allocated: 0x2_0000 })
      .writeRange(1, 3)
      .snapshot('a')
      .write(2),
    damage: ['lowerCounts', 'flipFlags', 'dirty'],
  },
  {
    name: 'an external data file',
    image: image({ virtualSize: 1 << 20, dataFile: true, seed: 5 })
      .writeRange(0, 70)
      .write(200)
      .zero(201),
    damage: ['lowerCounts', 'flipFlags', 'dirty'],
  },
  {
    name: 'LUKS encryption: leaks that no move puts right',
    image: unflagged({ encryption: 2 }).layout({ junk: 5 }),
    damage: [],
  },
  {
    name: 'LUKS encryption: counts too low',
    image: shared({ encryption: 2 }).layout({ shuffle: true, junk: 5 }),
    damage: ['lowerCounts', 'dirty'],
  },
];

export function buildDamaged(
  { image: builder, damage: names }: RepairKind,
  seed: number,
): { sound: Uint8Array; bytes: Uint8Array; description: string } {
  const sound = builder.build();
  return { sound, ...damage(new Random(seed), sound, names) };
}
