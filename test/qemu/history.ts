/**
 * Images with a past: made by qemu-img with any options that it offers, then written, discarded, resized, amended,
 * snapshotted and reverted by QEMU, the same for the same seed. What QEMU refuses to do is left out.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { requireQemu } from '../support/qemu.js';
import { Random } from '../support/random.js';

/** Guest bytes at most: an image is read whole several times. */
const MOST_BYTES = 16 << 20;
const MOST_CLUSTERS = 600;

export class History {
  /** Every command, that a failure can be made again by hand. */
  readonly commands: string[] = [];
  readonly image: string;
  readonly dataFile: string;
  readonly #random: Random;
  readonly #backing: string;
  #clusterBytes = 65536;
  #sizeBytes = 0;
  #snapshots: string[] = [];
  #bitmaps: string[] = [];
  #canCompress = true;
  #names = 0;

  constructor(seed: number, directory: string) {
    requireQemu();
    this.#random = new Random(seed ^ 0x9e30);
    this.image = `${directory}/history.qcow2`;
    this.dataFile = `${directory}/history.data`;
    this.#backing = `${directory}/history.base`;
  }

  run(steps = this.#random.between(3, 9)): this {
    this.#create();
    for (let step = 0; step < steps; step++) this.#step();
    return this;
  }

  #create(): void {
    const random = this.#random;
    for (const path of [this.image, this.dataFile, this.#backing]) fs.rmSync(path, { force: true });
    const version2 = random.chance(0.12);
    const clusterBits = random.pick([9, 9, 10, 11, 12, 12, 14, 16, 16, 16, 18, 21]);
    this.#clusterBytes = 2 ** clusterBits;
    const most = Math.min(MOST_BYTES, MOST_CLUSTERS * this.#clusterBytes);
    this.#sizeBytes = random.chance(0.05) ? 0 : 512 * random.between(1, most / 512);
    const options = [`cluster_size=${this.#clusterBytes}`, `compat=${version2 ? '0.10' : '1.1'}`];
    if (!version2) {
      if (random.chance(0.4)) options.push(`refcount_bits=${2 ** random.int(7)}`);
      if (random.chance(0.15)) options.push('lazy_refcounts=on');
      if (random.chance(0.15)) options.push('compression_type=zstd');
      if (clusterBits >= 14 && random.chance(0.3)) options.push('extended_l2=on');
      if (random.chance(0.1)) {
        options.push(`data_file=${this.dataFile}`, `data_file_raw=${random.pick(['on', 'off'])}`);
        this.#canCompress = false;
      }
    }
    if (random.chance(0.2)) {
      fs.writeFileSync(this.#backing, Buffer.alloc(random.between(1, 2000) * 512, 'backing file'));
      options.push(`backing_file=${this.#backing}`, 'backing_fmt=raw');
    } else if (random.chance(0.25))
      options.push(`preallocation=${random.pick(['metadata', 'falloc', 'full'])}`);
    const made = this.#img(
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      options.join(','),
      this.image,
      String(this.#sizeBytes),
    );
    if (!made) this.#img('create', '-q', '-f', 'qcow2', this.image, String(this.#sizeBytes));
  }

  #step(): void {
    const random = this.#random;
    random.pick([
      () => this.#guest(),
      () => this.#guest(),
      () => this.#guest(),
      () => this.#guest(),
      () => this.#snapshot(),
      () => this.#snapshot(),
      () => this.#dropSnapshot(),
      () => this.#resize(),
      () => this.#amend(),
      () => this.#bitmap(),
    ])();
  }

  /** One run of a guest: some writes of every kind; now and then it ends without closing the image. */
  #guest(): void {
    const random = this.#random;
    if (this.#sizeBytes === 0) return;
    const commands: string[] = [];
    for (let left = random.between(1, 12); left > 0; left--) {
      const aligned = random.chance(0.6);
      const unit = aligned ? this.#clusterBytes : 512;
      const units = Math.max(1, Math.floor(this.#sizeBytes / unit));
      const first = random.int(units);
      const count = Math.max(1, Math.min(units - first, random.pick([1, 1, 3, 20, random.int(units)])));
      const [at, length] = [first * unit, Math.min(count * unit, this.#sizeBytes - first * unit)];
      if (length <= 0) continue;
      const kinds = [
        'write -q -P',
        'write -q -P',
        'write -q -P',
        'write -q -z',
        'write -q -z -u',
        'discard -q',
        'discard -q',
      ];
      const kind = random.pick(kinds);
      if (kind !== 'write -q -P') commands.push(`${kind} ${at} ${length}`);
      else if (this.#canCompress && random.chance(0.3)) {
        const start = at - (at % this.#clusterBytes);
        for (
          let cluster = start;
          cluster < Math.min(at + length, start + 30 * this.#clusterBytes);
          cluster += this.#clusterBytes
        ) {
          const bytes = Math.min(this.#clusterBytes, this.#sizeBytes - cluster);
          commands.push(`write -q -c -P ${random.int(256)} ${cluster} ${bytes}`);
        }
      } else commands.push(`write -q -P ${random.int(256)} ${at} ${length}`);
    }
    const options = `driver=qcow2,file.filename=${this.image},discard=unmap,pass-discard-request=off`;
    this.#run('qemu-io', [...commands.flatMap((command) => ['-c', command]), '--image-opts', options]);
  }

  #snapshot(): void {
    const name = `s${this.#names++}`;
    if (this.#img('snapshot', '-c', name, this.image)) this.#snapshots.push(name);
  }

  #dropSnapshot(): void {
    if (this.#snapshots.length === 0) return;
    const name = this.#random.pick(this.#snapshots);
    if (this.#random.chance(0.25)) {
      this.#img('snapshot', '-a', name, this.image);
      return;
    }
    if (this.#img('snapshot', '-d', name, this.image))
      this.#snapshots = this.#snapshots.filter((other) => other !== name);
  }

  #resize(): void {
    const random = this.#random;
    const most = Math.min(MOST_BYTES, MOST_CLUSTERS * this.#clusterBytes);
    const size = 512 * random.between(1, most / 512);
    const how = size < this.#sizeBytes ? ['--shrink'] : [];
    if (this.#img('resize', '-q', ...how, '-f', 'qcow2', this.image, String(size))) this.#sizeBytes = size;
  }

  #amend(): void {
    const random = this.#random;
    const option = random.pick([
      'compat=1.1',
      'compat=0.10',
      `refcount_bits=${2 ** random.int(7)}`,
      `lazy_refcounts=${random.pick(['on', 'off'])}`,
    ]);
    this.#img('amend', '-q', '-f', 'qcow2', '-o', option, this.image);
  }

  #bitmap(): void {
    const random = this.#random;
    const command = (...how: string[]) => this.#img('bitmap', ...how);
    const known = this.#bitmaps;
    if (known.length === 0 || random.chance(0.5)) {
      const name = `b${this.#names++}`;
      const granularity = ['-g', String(2 ** random.between(9, 20))];
      const how = [
        '--add',
        ...(random.chance(0.5) ? granularity : []),
        ...(random.chance(0.2) ? ['--disable'] : []),
      ];
      if (command(...how, '-f', 'qcow2', this.image, name)) known.push(name);
      return;
    }
    const name = random.pick(known);
    const how = random.pick(['--remove', '--clear', '--enable', '--disable', '--merge']);
    const other = how === '--merge' ? [random.pick(known)] : [];
    if (command(how, ...other, '-f', 'qcow2', this.image, name) && how === '--remove')
      this.#bitmaps = known.filter((one) => one !== name);
  }

  #img(...args: string[]): boolean {
    return this.#run('qemu-img', args);
  }

  #run(program: string, args: readonly string[]): boolean {
    const { status } = spawnSync(program, args, { encoding: 'utf8', timeout: 60_000 });
    this.commands.push(`${program} ${args.join(' ')}${status === 0 ? '' : ` # ${status}`}`);
    return status === 0;
  }
}
