import { readLayout } from '../support/oracle-layout.js';

/** Host clusters of the longest table that must stay in one piece. */
export function longestTable(bytes: Uint8Array): number {
  const layout = readLayout(bytes);
  if (typeof layout === 'string') throw new Error(layout);
  const { clusterSize, refcountTableClusters, snapshotsLength, l1Size, snapshots } = layout;
  const lengths = [snapshotsLength, l1Size * 8, ...snapshots.map((snapshot) => snapshot.l1Size * 8)];
  return Math.max(refcountTableClusters, ...lengths.map((length) => Math.ceil(length / clusterSize)));
}
