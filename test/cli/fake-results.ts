/** Results as the library gives them, with figures that are easy to tell apart. */
import type {
  CheckResult,
  CompactResult,
  EraseResult,
  ImageFigures,
  PlanResult,
  RepairResult,
} from '../../src/compactor/types.js';

const GIB = 1024 ** 3;

const figures: ImageFigures = {
  formatVersion: 3,
  clusterBytes: 65536,
  virtualBytes: 40 * GIB,
  snapshotCount: 0,
  pinnedClusters: 0,
  clusters: { total: 163840, live: 68813, junk: 95027, leaked: 3 },
};

export function fakePlan(changes: Partial<PlanResult> = {}): PlanResult {
  return {
    ...figures,
    path: 'image.qcow2',
    lengthBefore: 10 * GIB,
    lengthAfter: 4.2 * GIB,
    clustersToMove: 50790,
    bytesToCopy: 50790 * 65536,
    tablesReleased: 0,
    preallocationReleased: 0,
    movesBy: 'copying',
    notices: [],
    ...changes,
  };
}

export function fakeCompact(changes: Partial<CompactResult> = {}): CompactResult {
  return {
    ...fakePlan(),
    outcome: 'compacted',
    bytesMoved: 3.1 * GIB,
    bytesLeftToReclaim: 0,
    bytesLeftToMove: 0,
    referencesUpdated: 50790,
    clustersErased: 0,
    leaksReclaimed: 0,
    excessClusters: 0,
    leaksLeft: 0,
    repaired: null,
    rounds: 13,
    barriers: 27,
    bytesShared: 0,
    bytesWritten: 3.11 * GIB,
    allocatedBefore: 10 * GIB,
    allocatedAfter: 4.2 * GIB,
    seconds: 4.2,
    ...changes,
  };
}

export function fakeErase(changes: Partial<EraseResult> = {}): EraseResult {
  return {
    ...figures,
    path: 'image.qcow2',
    outcome: 'erased',
    clustersErased: 1000,
    clustersLeft: 0,
    clustersAlreadyHoles: 200,
    bytesWritten: 800 * 65536,
    method: 'write',
    leaksReclaimed: 0,
    notices: [],
    seconds: 1.5,
    ...changes,
  };
}

export function fakeCheck(changes: Partial<CheckResult> = {}): CheckResult {
  return { ...figures, path: 'image.qcow2', corruptions: 0, leaks: 0, findings: [], notices: [], ...changes };
}

export function fakeRepair(changes: Partial<RepairResult> = {}): RepairResult {
  return {
    ...figures,
    path: 'image.qcow2',
    outcome: 'repaired',
    what: 'all',
    corruptionsFound: 5,
    leaksFound: 2,
    refcountsRebuilt: true,
    flagsChanged: 4,
    marksCleared: [],
    corruptions: 0,
    leaks: 0,
    findings: [],
    lengthBefore: 10 * GIB,
    lengthAfter: 10 * GIB,
    barriers: 3,
    bytesWritten: 131072,
    notices: [],
    seconds: 0.4,
    ...changes,
  };
}
