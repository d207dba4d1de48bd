/**
 * A qcow2 image as a live disk: clients read, write and discard, many requests at a time and by any byte. At every instant
 * the file is a valid image; what a flush has made durable is there after a crash, and of what came later each sector is
 * as it was or as it was to be (docs/online.md).
 */
import type { BlockDevice } from '../device/block-device.js';
import { openImageFile, openSharedFile } from '../device/open-image.js';
import { SettlingDevice } from '../device/settling-device.js';
import { QcowError } from '../errors.js';
import { openImage } from '../image/image.js';
import { requireSound, walk } from '../image/walk.js';
import { Pace } from '../pace.js';
import { reclaimLeaks } from '../recycler/leaks.js';
import { Recycler } from '../recycler/recycler.js';
import { Volume } from '../recycler/volume.js';
import { Allocator } from './allocator.js';
import { type FindBacking, findBackingFile, openBacking } from './backing.js';
import { type BackgroundSettings, type BackgroundTuning, backgroundPlan } from './background/options.js';
import type { DiskStatus } from './background/status.js';
import { Changes } from './changes.js';
import { geometryOf } from './geometry.js';
import type { Status } from './guest-source.js';
import { asDiskError } from './host-errors.js';
import { Qcow2Source } from './qcow2-source.js';
import { requireReadable, requireWritable } from './refusals.js';
import { Tables } from './tables.js';

const DEFAULT_CACHE_BYTES = 64 << 20;

export interface DiskOptions extends BackgroundSettings {
  /** Nothing is written, and others may read the image too. */
  readOnly?: boolean;
  /** Most bytes of tables in memory; default 64 MiB, for each image of a chain. At least two tables are kept. */
  cacheBytes?: number;
  /** Clients may discard; default true. Without it nothing that they do gives up clusters. */
  discard?: boolean;
}

export interface DeviceDiskOptions extends DiskOptions, BackgroundTuning {
  /** The image's own path, to which the name of its backing file is relative. */
  path?: string;
  /** Finds backing files; default in the file system. */
  findBacking?: FindBacking;
  /** What is made ready for new data at a time; by default it follows the length of the file. */
  fillBytes?: number;
}

export interface ZeroOptions {
  /** Clusters are given up; else those that nobody shares keep their room. Default true. */
  mayUnmap?: boolean;
}

/** A stretch of the disk. */
export interface BlockStatus extends Status {
  offset: number;
}

export class Qcow2Disk {
  readonly isReadOnly: boolean;
  readonly #source: Qcow2Source;
  readonly #changes: Changes | null;
  readonly #mayDiscard: boolean;
  readonly #requests: { inFlight: number };
  #onIdle: (() => void) | null = null;
  #closing: Promise<void> | null = null;

  private constructor(
    source: Qcow2Source,
    changes: Changes | null,
    mayDiscard: boolean,
    requests = { inFlight: 0 },
  ) {
    this.#source = source;
    this.#mayDiscard = mayDiscard;
    this.#requests = requests;
    this.#changes = changes;
    this.isReadOnly = changes === null;
  }

  /** Opens the image at `path`, checked as by every command and locked until `close`. */
  static async open(path: string, options: DiskOptions = {}): Promise<Qcow2Disk> {
    const { device, key } =
      options.readOnly === true
        ? await openSharedFile(path)
        : { ...(await openImageFile(path, { mode: 'write' })), key: undefined };
    try {
      return await this.#open(device, { ...options, path }, key === undefined ? [] : [key]);
    } catch (error) {
      await device.close();
      throw asDiskError(error);
    }
  }

  /** The same on any block device, which the disk closes. */
  static async on(device: BlockDevice, options: DeviceDiskOptions = {}): Promise<Qcow2Disk> {
    try {
      return await this.#open(device, options, []);
    } catch (error) {
      throw asDiskError(error);
    }
  }

  static async #open(device: BlockDevice, options: DeviceDiskOptions, seen: string[]): Promise<Qcow2Disk> {
    const cacheBytes = options.cacheBytes ?? DEFAULT_CACHE_BYTES;
    if (!(cacheBytes >= 0))
      throw new QcowError(
        'USAGE',
        `cacheBytes must be a number of bytes, 0 or more; got ${String(cacheBytes)}`,
      );
    const isReadOnly = options.readOnly === true;
    const settling = new SettlingDevice(device);
    const image = await openImage(isReadOnly ? device : settling);
    requireReadable(image);
    if (!isReadOnly) requireWritable(image);
    const walked = await walk(image);
    requireSound(walked);
    const find = options.findBacking ?? findBackingFile;
    const backing = await openBacking(image, options.path ?? '', { find, cacheBytes }, seen);
    try {
      const volume = new Volume(image, walked.clusters);
      const recycler = new Recycler(volume);
      settling.onFailure = (error) => recycler.fail(error);
      const tables = await Tables.open(
        image.device,
        recycler.locks,
        geometryOf(image.header),
        image.header,
        cacheBytes,
      );
      const source = new Qcow2Source(image.device, image.header, tables, recycler.locks, backing);
      if (isReadOnly) return new Qcow2Disk(source, null, true);
      reclaimLeaks(volume);
      const plan = backgroundPlan(options, volume.clusterBytes);
      const allocator = new Allocator(recycler, options.fillBytes);
      const requests = { inFlight: 0 };
      const changes = new Changes(recycler, tables, source, allocator, plan, () => requests.inFlight);
      return new Qcow2Disk(source, changes, options.discard !== false, requests);
    } catch (error) {
      await backing?.close();
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.#source.sizeBytes;
  }

  get clusterBytes(): number {
    return this.#source.geometry.clusterBytes;
  }

  /** `writeZeroes` needs no data written, but for parts of clusters: entries say it. */
  get hasFastZeroes(): boolean {
    return this.#mayDiscard && (this.#source.geometry.canZero || this.#source.backing === null);
  }

  /** The failure of a barrier, after which nothing can be written any more; or null. */
  get failure(): Error | null {
    return this.#changes?.failure ?? null;
  }

  /** What moves clusters and frees them beside the clients; null where nothing is written. */
  get recycler(): Recycler | null {
    return this.#changes?.recycler ?? null;
  }

  /** L2 tables in memory. */
  get cachedTables(): number {
    return this.#source.cachedTables;
  }

  /** Fills `target` from `offset`. */
  read(target: Uint8Array, offset: number): Promise<void> {
    return this.#request(offset, target.length, () => this.#source.read(target, offset));
  }

  /** Writes `source` at `offset`; it must not change before the promise is settled. */
  write(source: Uint8Array, offset: number): Promise<void> {
    return this.#change(offset, source.length, (changes) => changes.write(source, offset));
  }

  /** The stretch reads as zeroes afterwards. */
  writeZeroes(offset: number, lengthBytes: number, { mayUnmap = true }: ZeroOptions = {}): Promise<void> {
    const unmaps = mayUnmap && this.#mayDiscard;
    return this.#change(offset, lengthBytes, (changes) => changes.zero(offset, lengthBytes, unmaps));
  }

  /** The guest needs the stretch no more: it reads as zeroes afterwards, and its whole clusters are given up. */
  discard(offset: number, lengthBytes: number): Promise<void> {
    if (!this.#mayDiscard)
      return Promise.reject(new QcowError('USAGE', 'the disk is open without `discard`'));
    return this.writeZeroes(offset, lengthBytes, { mayUnmap: true });
  }

  /** What was written before the call is durable afterwards. */
  flush(): Promise<void> {
    return this.#request(0, 0, async () => this.#changes?.flush());
  }

  /** What the work in the background has done, and what there is to do; null where nothing is written. */
  status(): DiskStatus | null {
    return this.#changes?.status ?? null;
  }

  /**
   * Compacts at once, beside the clients; ends when nothing can move nearer to the front, or clients change all that is to.
   * Answers the bytes that the file has become shorter by.
   */
  async compactNow(): Promise<number> {
    if (this.#closing !== null) throw new QcowError('USAGE', 'the disk is closed');
    if (this.#changes === null) throw new QcowError('USAGE', 'the disk is open for reading only');
    try {
      return await this.#changes.compactNow();
    } catch (error) {
      throw asDiskError(error);
    }
  }

  /** Stretches of [offset, offset + length) in order, without a gap; neighbours differ. No more than `most` of them. */
  blockStatus(offset: number, lengthBytes: number, most = Infinity): Promise<BlockStatus[]> {
    return this.#request(offset, lengthBytes, async () => {
      const found: BlockStatus[] = [];
      const pace = new Pace();
      for (let at = offset; at < offset + lengthBytes;) {
        if (pace.isOver) await pace.giveWay();
        const status = await this.#source.status(at, offset + lengthBytes - at);
        const last = found.at(-1);
        if (last?.isAllocated === status.isAllocated && last.isZero === status.isZero)
          last.lengthBytes += status.lengthBytes;
        else if (found.length === most) break;
        else found.push({ offset: at, ...status });
        at += status.lengthBytes;
      }
      return found;
    });
  }

  /** Waits for all requests, makes all durable and closes the file; unused clusters at its end are cut off. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // Requests may wait for what it is at.
    this.#changes?.stopBackground();
    if (this.#requests.inFlight > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
    try {
      await this.#changes?.finish();
    } catch (error) {
      throw asDiskError(error);
    } finally {
      await this.#source.close();
    }
  }

  #change(offset: number, lengthBytes: number, work: (changes: Changes) => Promise<void>): Promise<void> {
    const changes = this.#changes;
    if (changes === null) return Promise.reject(new QcowError('USAGE', 'the disk is open for reading only'));
    return this.#request(offset, lengthBytes, () => work(changes));
  }

  async #request<T>(offset: number, lengthBytes: number, work: () => Promise<T>): Promise<T> {
    if (this.#closing !== null) throw new QcowError('USAGE', 'the disk is closed');
    if (!isInside(offset, lengthBytes, this.sizeBytes)) {
      throw new QcowError(
        'USAGE',
        `${lengthBytes} bytes at ${offset} are not within the disk, which has ${this.sizeBytes} bytes`,
      );
    }
    this.#requests.inFlight++;
    this.#changes?.note();
    try {
      return await work();
    } catch (error) {
      throw asDiskError(error);
    } finally {
      if (--this.#requests.inFlight === 0) this.#onIdle?.();
    }
  }
}

function isInside(offset: number, lengthBytes: number, sizeBytes: number): boolean {
  return (
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(lengthBytes) &&
    offset >= 0 &&
    lengthBytes >= 0 &&
    offset + lengthBytes <= sizeBytes
  );
}
