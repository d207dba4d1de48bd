/** How much of the host's free space a run may use while it works (I10). */
import { State } from './cluster-map.js';
import type { Goal } from './goal.js';
import type { Volume } from './volume.js';
import { makeHole } from './zeroes.js';

export interface RoundBudget {
  /** Most bytes of a round. */
  bytes: number;
  /** Most bytes of a plan's moves that only put refcounts right: they do not shorten the file. */
  forcedBytes: number;
  nearlyFull: boolean;
}

export class HostRoom {
  readonly #volume: Volume;
  readonly #roundBytes: number;
  /** What moves that only put refcounts right may still use of a nearly full host that cannot punch. */
  #forcedBytes = Infinity;

  constructor(volume: Volume, roundBytes: number) {
    this.#volume = volume;
    this.#roundBytes = roundBytes;
  }

  /** A round's bytes are in two places at once: less of them where the host is nearly full. */
  async budget(goal: Goal): Promise<RoundBudget> {
    const { device, map, clusterBytes } = this.#volume;
    const roundBytes = this.#roundBytes;
    const spare = async () => Math.floor((await device.freeBytes()) / 2);
    if ((await spare()) >= roundBytes) {
      device.reserve(roundBytes);
      return { bytes: roundBytes, forcedBytes: Infinity, nearlyFull: false };
    }
    // Junk that truncation will remove anyway.
    for (let cluster = goal.finalClusters; cluster < map.clusterCount; cluster++) {
      if (!map.is(cluster, State.junk)) continue;
      if (!device.canPunch) break;
      await this.#punch(cluster);
    }
    const bytes = await spare();
    device.reserve(bytes);
    if (!device.canPunch) this.#forcedBytes = Math.min(this.#forcedBytes, bytes);
    return {
      bytes: Math.min(roundBytes, Math.max(clusterBytes, bytes)),
      forcedBytes: Math.min(bytes, this.#forcedBytes),
      nearlyFull: true,
    };
  }

  /**
   * Sources that no truncation will cut off give their blocks back here; where the host cannot punch, such moves
   * come to an end before they have used up its room.
   */
  async giveBack(sources: Uint32Array): Promise<void> {
    const { device, map, clusterBytes } = this.#volume;
    if (!device.canPunch) this.#forcedBytes = Math.max(0, this.#forcedBytes - sources.length * clusterBytes);
    else for (const source of sources) if (map.is(source, State.junk)) await this.#punch(source);
  }

  async #punch(cluster: number): Promise<void> {
    const { device, clusterBytes } = this.#volume;
    const at = cluster * clusterBytes;
    await makeHole(device, at, Math.min(clusterBytes, device.lengthBytes - at));
  }
}
