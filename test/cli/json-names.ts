/** Names that were published once: docs/json.md lists them, scripts rely on them. */
const COMMON = ['path', 'ok', 'mode', 'outcome', 'error'];
const FIGURES = [
  'formatVersion',
  'clusterBytes',
  'virtualBytes',
  'snapshotCount',
  'pinnedClusters',
  'clusters',
  'notices',
];
export const PLAN_NAMES = [
  'lengthBefore',
  'lengthAfter',
  'clustersToMove',
  'bytesToCopy',
  'tablesReleased',
  'preallocationReleased',
  'movesBy',
];
const ERASED = ['clustersErased', 'leaksReclaimed', 'bytesWritten', 'seconds'];
const COMPACT = [
  'bytesMoved',
  'bytesLeftToReclaim',
  'bytesLeftToMove',
  'referencesUpdated',
  'leaksLeft',
  'excessClusters',
  'repaired',
  'rounds',
  'barriers',
  'bytesShared',
  'allocatedBefore',
  'allocatedAfter',
];
export const REPAIRED = [
  'corruptionsFound',
  'leaksFound',
  'refcountsRebuilt',
  'flagsChanged',
  'marksCleared',
];

/** Of the entry of an image, by mode. */
export const ENTRY_NAMES = {
  compact: [...COMMON, ...FIGURES, ...PLAN_NAMES, ...ERASED, ...COMPACT],
  erase: [...COMMON, ...FIGURES, ...ERASED, 'clustersAlreadyHoles', 'clustersLeft', 'method'],
  plan: [...COMMON, ...FIGURES, ...PLAN_NAMES],
  check: [...COMMON, ...FIGURES, 'corruptions', 'leaks', 'findings'],
  repair: [
    ...COMMON,
    ...FIGURES,
    ...REPAIRED,
    'what',
    'corruptions',
    'leaks',
    'findings',
    'lengthBefore',
    'lengthAfter',
    'barriers',
    'bytesWritten',
    'seconds',
  ],
};
