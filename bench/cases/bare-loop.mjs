/** The moves of a compaction that is not measured, and a program that makes them and does nothing else. */
import fs from 'node:fs';
import path from 'node:path';
import { NODE, ROOT } from '../measure.mjs';
import { digestOfDestinations, lengthOf, movesBetween } from '../moves.mjs';

const BARE_COPY = path.join(ROOT, 'bench/bare-copy.mjs');

export class BareLoop {
  mode = 'sync';

  static async for(bench, master) {
    await bench.prepareCold(master);
    const { result } = await bench.compact();
    const loop = new BareLoop(bench, master, result);
    if (loop.isFair) await loop.#pickMode();
    return loop;
  }

  /** The copy has just been compacted. */
  constructor(bench, master, { bytesMoved, movesBy }) {
    this.bench = bench;
    this.master = master;
    this.moves = movesBetween(master, bench.copy);
    this.dataBytes = lengthOf(this.moves.data);
    const moved = this.dataBytes + lengthOf(this.moves.tables);
    if (moved !== bytesMoved)
      throw new Error(`the tables tell of ${moved} bytes that moved, the tool of ${bytesMoved}`);
    this.digest = digestOfDestinations(bench.copy, this.moves.data);
    // Where blocks are shared nothing is copied, and a loop that copies is no rival.
    this.isFair = movesBy === 'copying';
    this.movesPath = bench.path('moves.json');
    fs.writeFileSync(this.movesPath, JSON.stringify(this.moves));
  }

  /** The quicker one of the two, run once each. */
  async #pickMode() {
    const seconds = {};
    for (const mode of ['sync', 'async']) {
      this.mode = mode;
      await this.bench.prepareCold(this.master);
      seconds[mode] = (await this.run()).seconds;
      this.bench.log(`bare loop with ${mode} calls: ${seconds[mode].toFixed(3)} s`);
    }
    this.mode = seconds.sync <= seconds.async ? 'sync' : 'async';
  }

  /** On the copy, which must be fresh; it is damaged afterwards. */
  async run() {
    const { copy } = this.bench;
    const args = [BARE_COPY, copy, this.movesPath, this.mode];
    const sample = await this.bench.timed(NODE, args);
    const isSame =
      fs.statSync(copy).size === this.moves.lengthAfter &&
      digestOfDestinations(copy, this.moves.data) === this.digest;
    if (!isSame) throw new Error('the bare loop has not made the moves of the compaction');
    return sample;
  }
}
