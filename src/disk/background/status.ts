/** What the work in the background has to show. */
import { State } from '../../recycler/cluster-map.js';
import type { Recycler } from '../../recycler/recycler.js';
import type { Background } from './background.js';

export interface DiskStatus {
  /** Bytes of the image file. */
  fileBytes: number;
  /** Bytes that nothing refers to, of which nothing is known. */
  junkBytes: number;
  /** Bytes that are zeroed, but not durably so. */
  erasedBytes: number;
  /** Bytes that are ready for new data. */
  availableBytes: number;
  /** Clusters that are on their way to another place. */
  movesUnderWay: number;
  /** Clusters that came to another place since the disk was opened. */
  clustersMoved: number;
  /** Clusters are on their way to the front, or about to be. */
  isCompacting: boolean;
  /** Bytes that the file is shorter by than it was at its longest since the disk was opened. */
  bytesReclaimed: number;
  /** Bytes at the front that hold something which does not move beside clients: what junk is there stays. */
  fixedBytes: number;
  /** What last failed in the background, until something succeeds; or what has ended all writing. */
  failure: Error | null;
  /** How often something has failed in the background. */
  failures: number;
}

export function statusOf(recycler: Recycler, background: Background): DiskStatus {
  const { volume, map, movesUnderWay, clustersMoved } = recycler;
  const bytesIn = (state: State) => map.countOf(state) * volume.clusterBytes;
  return {
    fileBytes: volume.device.lengthBytes,
    junkBytes: bytesIn(State.junk),
    erasedBytes: bytesIn(State.erased),
    availableBytes: bytesIn(State.available),
    movesUnderWay,
    clustersMoved,
    isCompacting: background.isCompacting,
    bytesReclaimed: background.bytesReclaimed,
    fixedBytes: background.fixedBytes,
    failure: background.failure,
    failures: background.failures,
  };
}
