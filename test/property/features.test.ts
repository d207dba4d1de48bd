/** The same promises for images with features that are no part of most images. */
import { test } from 'vitest';
import type { BuiltUnit } from '../support/image-builder.js';
import { type RandomImageOverrides, randomImage } from '../support/random-image.js';
import { expectNoFlaws } from './flaw.js';

const SEED = Number(process.env.SEED ?? 1_000);
const COUNT = Number(process.env.COUNT ?? 60);

/** So that the tables move, into gaps between what cannot. */
function tablesLast(units: readonly BuiltUnit[]): BuiltUnit[] {
  const isTable = ({ name }: BuiltUnit) => /^(refcount|snapshot|L1|L2|bitmap)/.test(name);
  return [...units.filter((unit) => !isTable(unit)), ...units.filter(isTable)];
}

/** Where QEMU makes it; among compressed clusters it would not let them be squeezed. */
function headerFirst(units: readonly BuiltUnit[]): BuiltUnit[] {
  const isHeader = ({ name }: BuiltUnit) => name.startsWith('LUKS');
  return [...units.filter(isHeader), ...units.filter((unit) => !isHeader(unit))];
}

const UNLOCKABLE = { encryption: 2, unlockable: true } as const;

const FEATURES: [string, RandomImageOverrides][] = [
  ['extended L2 entries', { version: 3, clusterBits: 14, maxClusters: 40, features: { extendedL2: true } }],
  ['an external data file', { version: 3, features: { dataFile: true } }],
  [
    'an external data file and extended L2 entries',
    { version: 3, clusterBits: 14, maxClusters: 40, features: { dataFile: true, extendedL2: true } },
  ],
  ['LUKS encryption', { features: { encryption: 2 } }],
  [
    'LUKS encryption and the tables at the end',
    { features: { encryption: 2 }, layout: { arrange: tablesLast } },
  ],
  ['LUKS encryption and little else', { maxClusters: 80, features: { encryption: 2 } }],
  [
    'LUKS encryption and extended L2 entries',
    { version: 3, clusterBits: 14, maxClusters: 40, features: { encryption: 2, extendedL2: true } },
  ],
  ['persistent bitmaps', { version: 3, bitmaps: true }],
  [
    'persistent bitmaps and their tables at the end',
    { version: 3, bitmaps: true, layout: { arrange: tablesLast } },
  ],
  ['persistent bitmaps and LUKS encryption', { version: 3, bitmaps: true, features: { encryption: 2 } }],
  [
    'persistent bitmaps and an external data file',
    { version: 3, bitmaps: true, features: { dataFile: true } },
  ],
  ['persistent bitmaps and compressed clusters', { version: 3, bitmaps: true, compressed: true }],
  [
    'persistent bitmaps and extended L2 entries',
    { version: 3, clusterBits: 14, maxClusters: 40, bitmaps: true, features: { extendedL2: true } },
  ],
  ['LUKS encryption with its key', { features: UNLOCKABLE }],
  [
    'LUKS encryption with its key and the tables at the end',
    { features: UNLOCKABLE, layout: { arrange: tablesLast } },
  ],
  [
    'LUKS encryption with its key and compressed clusters',
    { features: UNLOCKABLE, compressed: true, layout: { arrange: headerFirst } },
  ],
  [
    'LUKS encryption with its key and extended L2 entries',
    { version: 3, clusterBits: 14, maxClusters: 40, features: { ...UNLOCKABLE, extendedL2: true } },
  ],
  ['LUKS encryption and an external data file', { version: 3, features: { encryption: 2, dataFile: true } }],
];

test.each(FEATURES)('random images with %s compact to the least file', async (_, overrides) => {
  await expectNoFlaws(SEED, COUNT, (seed) => ({ image: randomImage(seed, overrides) }));
});
