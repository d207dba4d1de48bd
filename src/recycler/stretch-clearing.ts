/** Whatever is not compressed leaves the clusters that compressed extents get (design 6). */
import { Kind } from '../image/host-clusters.js';
import { State } from './cluster-map.js';
import { range } from './eraser.js';
import type { RoundRunner } from './round-runner.js';
import type { Volume } from './volume.js';

/** Nothing describes a place for what must step aside: what is packed so far stays, and the rest where it is. */
export class NoRoom extends Error {}

/**
 * Clears the clusters that are not 0 in `holds`: for holes elsewhere, the lowest first, or for the end of the file.
 * Answers whether there was anything.
 */
export async function clearClusters(runner: RoundRunner, holds: Uint8Array): Promise<boolean> {
  const { volume } = runner;
  let cleared = false;
  while (!runner.stop()) {
    const sources = occupied(volume, holds);
    if (sources.length === 0) return cleared;
    cleared = true;
    const inTheWay = new Set(sources);
    const run = volume.runs().find(({ first, count }) => {
      return count > 1 && range(first, count).some((cluster) => inTheWay.has(cluster));
    });
    const moving = run === undefined ? sources : range(run.first, run.count);
    const places = placesFor(volume, holds, moving.length, run !== undefined);
    if (places.length > 0) await runner.moveClusters(moving.slice(0, places.length), places, run);
    else if (!(await runner.describeMore(moving.length))) throw new NoRoom();
  }
  return cleared;
}

function occupied({ map, clusters }: Volume, holds: Uint8Array): number[] {
  const found: number[] = [];
  const end = Math.min(holds.length, map.clusterCount);
  for (let cluster = 0; cluster < end; cluster++) {
    if (holds[cluster] === 0 || !map.is(cluster, State.live)) continue;
    if (clusters.kind(cluster) !== Kind.compressed) found.push(cluster);
  }
  return found;
}

/** Up to `count` places, ascending, beyond the end of the file too; `together`: all of them and neighbours, or none. */
function placesFor({ map, image }: Volume, holds: Uint8Array, count: number, together: boolean): number[] {
  const { refcounts } = image;
  const end = ((refcounts.present.at(-1) ?? -1) + 1) * refcounts.perBlock;
  let places: number[] = [];
  for (let cluster = 1; cluster < end && places.length < count; cluster++) {
    const isFree = cluster >= map.clusterCount || map.is(cluster, State.junk);
    if (isFree && (holds[cluster] ?? 0) === 0 && refcounts.covers(cluster)) places.push(cluster);
    else if (together) places = [];
  }
  return together && places.length < count ? [] : places;
}
