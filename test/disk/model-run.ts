/** One run of random clients on a random image. */
import { expect } from 'vitest';
import type { Clock } from '../../src/device/rate-limiter.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import type { BackingFile } from '../../src/disk/backing.js';
import { type DeviceDiskOptions, Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { assertInSync } from '../../src/recycler/sync-check.js';
import { inspect } from '../support/oracle.js';
import { Random } from '../support/random.js';
import { image } from '../support/image-builder.js';
import { randomImage } from '../support/random-image.js';
import { type Mix, Clients } from './clients.js';
import { JitterDevice } from './jitter-device.js';
import { readSnapshots } from './snapshots.js';
import { TurnClock } from './turn-clock.js';

export interface DiskImage {
  bytes: Uint8Array;
  description: string;
  /** What it is based on, as raw bytes; null where it stands alone. */
  base: Uint8Array | null;
}

/** Any mix of kinds of clusters, but none that the disk refuses, of a size that can be read again and again. */
export function diskImage(seed: number): DiskImage {
  const random = new Random(seed ^ 0xd15c);
  if (random.chance(0.2)) return extendedImage(seed, random);
  const maxClusters = random.pick([60, 100, 200]);
  for (let attempt = seed; ; attempt += 1_000_000) {
    const { bytes, description, hasBackingFile } = randomImage(attempt, {
      clusterBits: random.pick([9, 9, 9, 10, 11]),
      bitmaps: false,
      maxClusters,
    });
    // What the builder takes for compressed by zstd is noise.
    if (description.includes('"compressionType":"zstd"') || description.includes('"virtualSize":0,'))
      continue;
    return { bytes, description, base: hasBackingFile ? baseOf(random, 200_000) : null };
  }
}

/** Shorter or longer than what is based on it. */
function baseOf(random: Random, mostBytes: number): Uint8Array {
  return random.bytes(random.between(1, mostBytes));
}

/** Clusters of 16 KiB, the smallest that have parts. */
function extendedImage(seed: number, random: Random): DiskImage {
  const clusters = random.between(3, 20);
  const hasBase = random.chance(0.4);
  const builder = image({
    seed,
    clusterBits: 14,
    extendedL2: true,
    refcountOrder: random.pick([1, 3, 4, 6]),
    virtualSize: clusters * 16384 - 512 * random.int(32),
    ...(hasBase && { backingFile: 'base.raw', backingFormat: 'raw' }),
  });
  const change = () => {
    const cluster = random.int(clusters);
    const allocated = random.uint32();
    const zero = (random.uint32() & ~allocated) >>> 0;
    const what = random.int(5);
    if (what === 0) builder.write(cluster);
    else if (what === 1) builder.compress(cluster);
    else if (what === 2) builder.writeSubclusters(cluster, { zero, allocated });
    else if (what === 3) builder.writeSubclusters(cluster, { zero, allocated: 0 });
    else builder.discard(cluster);
  };
  for (let changes = random.int(20); changes > 0; changes--) change();
  if (random.chance(0.5)) builder.snapshot('a');
  for (let changes = random.int(8); changes > 0; changes--) change();
  const bytes = builder
    .layout({ shuffle: random.chance(0.5), junk: random.int(6), leaks: random.int(2) })
    .build();
  const description = `extended L2 entries, ${clusters} clusters`;
  return { bytes, description, base: hasBase ? baseOf(random, clusters * 20_000) : null };
}

/** Finds the base of such an image. */
export function findIn(base: Uint8Array | null) {
  return (name: string): Promise<BackingFile> =>
    base === null
      ? Promise.reject(new Error(`no file ${name}`))
      : Promise.resolve({ device: new MemoryDevice(base), key: name, path: name });
}

export async function contentOf(bytes: Uint8Array, base: Uint8Array | null): Promise<Uint8Array> {
  const disk = await Qcow2Disk.on(new MemoryDevice(bytes), { readOnly: true, findBacking: findIn(base) });
  const content = new Uint8Array(disk.sizeBytes);
  await disk.read(content, 0);
  return content;
}

/** Until the work in the background has found nothing to do for some time. */
async function untilAtRest({ recycler }: Qcow2Disk, clock: Clock): Promise<void> {
  const progress = () => recycler!.work.version + recycler!.barriers;
  for (let quiet = 0, before = progress(); quiet < 30; before = progress()) {
    await clock.sleep(1);
    quiet = before === progress() ? quiet + 1 : 0;
  }
}

export interface ModelOptions {
  /** Default one by the seed. */
  image?: DiskImage;
  mix?: Partial<Mix>;
  cacheBytes?: number;
  /** The recycler works beside the clients, with the smallest thresholds: asked to again and again, or on its own. */
  hot?: 'asked' | 'alone';
}

/** A pool or none, compaction of any junk, in rounds of a few clusters. */
export function hotOptions(random: Random, seed: number): DeviceDiskOptions {
  return {
    keepErased: random.pick([0, 0, 3, 20]),
    compactAfterBytes: random.pick([0, 1, 4096]),
    backgroundBytesPerSecond: random.pick([1 << 12, 1 << 30]),
    roundBytes: random.pick([1, 4, 16, 1000]) * 512,
    clock: new TurnClock(seed),
  };
}

/** Asks for a compaction again and again until told to end; answers how often it came to its end. */
export async function compactUntil(disk: Qcow2Disk, isOver: () => boolean): Promise<number> {
  let compactions = 0;
  while (!isOver()) {
    await disk.compactNow();
    compactions++;
    for (let turns = 0; turns < 40 && !isOver(); turns++) await Promise.resolve();
    if (compactions % 4 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return compactions;
}

export async function modelRun(
  seed: number,
  operations: number,
  { image: given, mix: wanted = {}, cacheBytes, hot }: ModelOptions = {},
): Promise<number> {
  const random = new Random(seed);
  const { bytes, description, base } = given ?? diskImage(seed);
  const mix: Mix = {
    clients: random.between(1, 6),
    mostBytes: random.pick([600, 600, 2000, 8000, 30_000]),
    ...wanted,
  };
  const options: DeviceDiskOptions = {
    fillBytes: random.pick([1, 4, 20]) * 512,
    cacheBytes: cacheBytes ?? random.pick([0, 4000, 1 << 20]),
    findBacking: findIn(base),
    ...(hot !== undefined && hotOptions(random, seed)),
    ...(hot === 'alone' && { compactAfterBytes: 1 }),
  };
  const what = `seed ${seed}: ${JSON.stringify({ ...mix, ...options, hot })} ${description}`;
  try {
    const memory = new MemoryDevice(bytes, { canPunch: random.chance(0.5) });
    const snapshots = readSnapshots(bytes);
    const disk = await Qcow2Disk.on(new JitterDevice(memory, seed), options);
    const clients = new Clients(disk, await contentOf(bytes, base), seed, mix);
    for (let part = 0; part < 4; part++) {
      let isOver = false;
      const compacting = hot === 'asked' ? compactUntil(disk, () => isOver) : null;
      await clients.run(operations / 4).finally(() => (isOver = true));
      await compacting;
      await disk.flush();
      if (hot === 'asked') await disk.compactNow();
      if (hot !== undefined) await untilAtRest(disk, options.clock!);
      // A count that came down with the last barrier may still have to be written.
      await disk.recycler!.writeCounts();
      await assertInSync(disk.recycler!.volume);
      disk.recycler!.assertConsistent();
      expect(inspect(memory.bytes()).corruptions).toEqual([]);
      expect(Buffer.compare(await contentOf(memory.bytes(), base), clients.content)).toBe(0);
    }
    const moved = disk.recycler!.referencesUpdated;
    await disk.close();
    const after = memory.bytes();
    expect(inspect(after).corruptions).toEqual([]);
    expect(inspect(after).leaks).toBeLessThanOrEqual(inspect(bytes).leaks);
    expect(Buffer.compare(await contentOf(after, base), clients.content)).toBe(0);
    expect(readSnapshots(after)).toEqual(snapshots);
    return moved;
  } catch (error) {
    throw new Error(what, { cause: error });
  }
}
