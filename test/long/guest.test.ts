/**
 * Guests that lose their disks, or are lost, in the middle of work, for as long as wanted: `BUDGET=3600 SEED=123456 npm run
 * test:long -- guest` (seconds; the moments are as the machine has them).
 */
import fs from 'node:fs';
import { expect, test } from 'vitest';
import { cli } from '../e2e/cli.js';
import type { Serving } from '../e2e/serving.js';
import { GuestFiles } from '../guest/guest-files.js';
import { type Bus, BUSES } from '../guest/guest.js';
import {
  CLEAN,
  expectValidWithoutMark,
  loseAtWork,
  Machine,
  mountAfterLoss,
  requireGuest,
} from '../guest/machine.js';
import { checkImage, qemuImg } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const BUDGET_SECONDS = Number(process.env.BUDGET ?? 600);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000_000);
const timeout = (BUDGET_SECONDS + 300) * 1000;

const OPTIONS = [
  'cluster_size=64k',
  'cluster_size=4k',
  'cluster_size=2M',
  'cluster_size=16k,extended_l2=on',
  'cluster_size=64k,lazy_refcounts=on',
  'compat=0.10',
];
/** Of `serve`: who compacts beside the guest, if anybody. */
const BESIDE = {
  nothing: [],
  'by itself': ['--compact-after', '2M', '--keep-erased', '50'],
  'when asked': ['--keep-erased', '20', '--background-rate', '8M'],
} as const;
const LOSSES = ['server killed', 'server stopped', 'guest killed', 'none'] as const;

const directory = temporaryDirectory();
const until = performance.now() + BUDGET_SECONDS * 1000;

test(`guests at work, seeds from ${SEED}`, { timeout }, async (context) => {
  requireGuest(context);
  const machine = new Machine(directory);
  const counts: Record<string, number> = {};
  let seed = SEED;
  for (; performance.now() < until; seed++) await oneDisk(machine, new Random(seed), seed, counts);
  console.log(counts, `seeds ${SEED} to ${seed - 1}`);
});

async function oneDisk(
  machine: Machine,
  random: Random,
  seed: number,
  counts: Record<string, number>,
): Promise<void> {
  const { image } = machine;
  const options = random.pick(OPTIONS);
  fs.rmSync(image, { force: true });
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, image, '600M');
  const files = new GuestFiles(random);
  const beside = random.pick(Object.keys(BESIDE) as (keyof typeof BESIDE)[]);
  const snapshots = new Snapshots(image);
  let server: Serving | null = await machine.serve(...BESIDE[beside]);
  const first = await machine.boot(server, 'blk');
  await first.run(`mkfs.ext4 -q ${first.device}`);
  await first.powerOff();
  for (let round = random.between(3, 8); round > 0; round--) {
    server ??= await machine.serve(...BESIDE[beside]);
    const served = server;
    const loss = random.pick(LOSSES);
    console.log(`seed ${seed}, ${options}, compacted ${beside}: ${loss}`);
    counts[loss] = (counts[loss] ?? 0) + 1;
    const guest = await machine.boot(server, random.pick(Object.keys(BUSES) as Bus[]));
    await mountAfterLoss(
      guest,
      files,
      random.pick(['defaults', 'discard', 'data=journal', 'nodelalloc,discard']),
    );
    const workMs = random.between(200, beside === 'by itself' ? 40_000 : 8000);
    const compacting = beside === 'when asked' ? machine.keepCompacting(served) : null;
    if (loss === 'none') {
      const end = performance.now() + workMs;
      await files.workOn(guest, () => performance.now() > end);
      await compacting?.end();
      await guest.run('umount /mnt');
      await guest.powerOff();
    } else if (loss === 'guest killed') {
      await loseAtWork(guest, files, workMs, () => guest.kill());
    } else {
      const signal = loss === 'server killed' ? 'SIGKILL' : 'SIGTERM';
      await loseAtWork(guest, files, workMs, () => (served.kill(signal), served.ended));
    }
    counts.compactions = (counts.compactions ?? 0) + ((await compacting?.end()) ?? 0);
    if (loss === 'none' || loss === 'guest killed') {
      if (random.chance(0.5)) continue;
      await machine.stop(server);
    } else if (loss === 'server stopped') {
      expect(await server.ended).toMatchObject({ status: 0, signal: null, stderr: '' });
      expect(checkImage(image)).toEqual(CLEAN);
    } else {
      await server.ended;
      expectValidWithoutMark(image);
    }
    snapshots.expectUnchanged();
    if (random.chance(0.3)) snapshots.change();
    if (random.chance(0.3)) expect(cli([image]).status).toBe(0);
    server = null;
  }
  if (server !== null) await machine.stop(server);
  snapshots.remove();
  for (const [name, count] of Object.entries(files.done)) counts[name] = (counts[name] ?? 0) + count;
}

/** One at a time. */
class Snapshots {
  private readonly kept = directory.path('snapshot.raw');
  private readonly now = directory.path('snapshot-now.raw');

  constructor(private readonly image: string) {}

  /** Removes it, or makes it. */
  change(): void {
    if (fs.existsSync(this.kept)) {
      qemuImg('snapshot', '-d', 'kept', this.image);
      return this.remove();
    }
    qemuImg('snapshot', '-c', 'kept', this.image);
    this.convert(this.kept);
  }

  expectUnchanged(): void {
    if (!fs.existsSync(this.kept)) return;
    this.convert(this.now);
    expect(qemuImg('compare', '-f', 'raw', '-F', 'raw', this.kept, this.now)).toContain('identical');
  }

  remove(): void {
    for (const file of [this.kept, this.now]) fs.rmSync(file, { force: true });
  }

  private convert(to: string): void {
    qemuImg('convert', '-f', 'qcow2', '-l', 'snapshot.name=kept', '-O', 'raw', this.image, to);
  }
}
