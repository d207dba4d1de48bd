import { readLayout, readOffset } from '../support/oracle-layout.js';

/** Host clusters of the file up to the end of the last range that a refcount block describes. */
export function describedClusters(bytes: Uint8Array): number {
  const layout = readLayout(bytes);
  if (typeof layout === 'string') throw new Error(layout);
  const entries = (layout.refcountTableClusters * layout.clusterSize) / 8;
  const perBlock = (layout.clusterSize * 8) >>> layout.refcountOrder;
  let index = entries - 1;
  while (index >= 0 && readOffset(layout.view, layout.refcountTableOffset + index * 8) === 0) index--;
  return Math.min(layout.clusterCount, (index + 1) * perBlock);
}
