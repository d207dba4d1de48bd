/** The guest's writes: over its own data where they are, else to a new place that the entry names afterwards. */
import { Access } from '../recycler/locks.js';
import { Content, type Run } from './mapping.js';
import { lockBehind } from './passage.js';
import { type Placer, STEP_BYTES } from './placer.js';
import { isSame } from './qcow2-source.js';
import type { WriteContext } from './write-context.js';

/** Stretches of one request that are written at a time. */
const IN_FLIGHT = 16;

export class Writer {
  readonly #context: WriteContext;
  readonly #placer: Placer;

  constructor(context: WriteContext, placer: Placer) {
    this.#context = context;
    this.#placer = placer;
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    const parts: Promise<void>[] = [];
    try {
      for (let at = 0; at < source.length;) {
        const run = await this.#context.tables.runAt(offset + at, source.length - at);
        if (at === 0 && run.lengthBytes === source.length) return await this.#writePart(source, offset);
        const length = this.#lengthOfPart(run, offset + at, source.length - at);
        const part = this.#writePart(source.subarray(at, at + length), offset + at);
        // Its failure is heard of below, perhaps only after another wait.
        part.catch(() => undefined);
        parts.push(part);
        at += length;
        if (parts.length < IN_FLIGHT) continue;
        await allSettled(parts.splice(0));
        await this.#context.relieve();
      }
    } finally {
      // Nothing of a request is under way any more when its error is heard of.
      await allSettled(parts);
    }
  }

  /** Own data go by their runs; what needs places goes together, to whole clusters, so that it gets neighbouring ones. */
  #lengthOfPart(run: Run, guest: number, mostBytes: number): number {
    let length = run.lengthBytes;
    if (isOwnData(run)) return length;
    const { clusterBytes } = this.#context.geometry;
    while (length < mostBytes && length < STEP_BYTES) {
      const next = this.#context.tables.peekRun(guest + length, mostBytes - length);
      if (next === null || (isOwnData(next) && (guest + length) % clusterBytes === 0)) break;
      length += next.lengthBytes;
    }
    return length;
  }

  /** Looks again at every step: what the tables say may have changed since the caller's look. */
  async #writePart(source: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < source.length;) {
      const guest = offset + at;
      const left = source.length - at;
      const run = this.#context.tables.peekRun(guest, left);
      if (run === null) {
        await this.#context.tables.runAt(guest, left);
        continue;
      }
      at += isOwnData(run)
        ? await this.#overwrite(source.subarray(at, at + run.lengthBytes), guest, run)
        : await this.#placer.place(source.subarray(at), guest);
    }
  }

  /** In place: nothing but the data changes. Answers the bytes written; none where the run is not there any more. */
  async #overwrite(bytes: Uint8Array, guest: number, run: Run): Promise<number> {
    const { geometry, tables, locks, recycler, device } = this.#context;
    const table = tables.peek(tables.l1Index(guest));
    if (table === undefined || table === null) return 0;
    const first = Math.floor(run.host / geometry.clusterBytes);
    const last = Math.floor((run.host + bytes.length - 1) / geometry.clusterBytes);
    const passed = table.cluster;
    const lock = lockBehind(locks, table.cluster, first, last - first + 1, Access.changing);
    const release = typeof lock === 'function' ? lock : await lock;
    try {
      const isStill = () => tables.isAt(guest, passed) && isSame(run, tables.peekRun(guest, bytes.length));
      if (release !== lock && !isStill()) return 0;
      for (let cluster = first; cluster <= last; cluster++) recycler.cancel(cluster);
      await device.write(bytes, run.host);
      return bytes.length;
    } finally {
      release();
    }
  }
}

function isOwnData(run: Run): boolean {
  return run.content === Content.data && run.isOwn;
}

async function allSettled(parts: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(parts);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
