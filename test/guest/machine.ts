/** What the tests of a guest have in common: its parts, an image that is served, and what both have to be after it. */
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, type TestContext } from 'vitest';
import { startCli } from '../e2e/cli.js';
import { serving, type Serving } from '../e2e/serving.js';
import { checkImage, qemuImg, requireQemu } from '../support/qemu.js';
import { CONTENTS, CONTENTS_FILE, type GuestFiles } from './guest-files.js';
import { type Bus, CommandFailed, Gone, Guest } from './guest.js';
import { buildInitramfs } from './initramfs.js';
import { findParts, missingParts } from './parts.js';

export const CLEAN = { corruptions: 0, leaks: 0, errors: 0 };

/** Skips the test where there can be no guest; but where the tests are for certain to be run, it fails. */
export function requireGuest(context: TestContext): void {
  requireQemu();
  const problem = missingParts();
  if (problem === null) return;
  if (process.env.CI === 'true' && process.platform === 'linux' && process.arch === 'x64')
    throw new Error(problem);
  console.log(`skipped: ${problem}`);
  context.skip(true, problem);
}

export class Machine {
  readonly image: string;
  private readonly socket: string;
  private readonly initramfs: string;
  private readonly kernel: string;
  private boots = 0;

  constructor(private readonly directory: { path: (name: string) => string }) {
    this.image = directory.path('vm.qcow2');
    this.socket = directory.path('vm.sock');
    this.initramfs = directory.path('initramfs');
    const parts = findParts();
    this.kernel = parts.kernel;
    fs.writeFileSync(this.initramfs, buildInitramfs(parts, { [CONTENTS_FILE]: CONTENTS }));
  }

  serve(...options: string[]): Promise<Serving> {
    return serving('--socket', this.socket, ...options, this.image);
  }

  /** The image is compacted beside the guest, again and again; `end` answers how often, the last time whole. */
  keepCompacting({ uri, ended }: Serving): { end: () => Promise<number> } {
    let isEnough = false;
    let hasGone = false;
    void ended.then(() => (hasGone = true));
    const runs = (async () => {
      for (let count = 0; ; count++) {
        const isLast = isEnough;
        const { status, stderr } = await startCli(['now', '--quiet', uri]).ended;
        // One that is about to end answers no more.
        if (status !== 0) await Promise.race([ended, sleep(10_000, null, { ref: false })]);
        if (hasGone) return count;
        if (status !== 0) throw new Error(`now: exit ${status}\n${stderr}`);
        if (isLast) return count;
      }
    })();
    runs.catch(() => undefined);
    return { end: () => ((isEnough = true), runs) };
  }

  boot({ uri }: Serving, bus: Bus): Promise<Guest> {
    const log = this.directory.path(`boot-${++this.boots}.log`);
    return Guest.boot({ kernel: this.kernel, initramfs: this.initramfs, uri, bus, log });
  }

  /** SIGTERM: all is well, and the image holds what the guest could read last. */
  async stop(server: Serving): Promise<void> {
    const served = this.directory.path('served.raw');
    qemuImg('convert', '-f', 'raw', '-O', 'raw', server.uri, served);
    expect(await server.stop()).toMatchObject({ status: 0, signal: null, stderr: '' });
    expect(checkImage(this.image)).toEqual(CLEAN);
    expect(qemuImg('compare', '-f', 'qcow2', '-F', 'raw', this.image, served)).toContain('identical');
    fs.rmSync(served);
  }
}

/** Makes it the guest's, as one that was lost: the journal is played back, and then nothing is found wrong with it. */
export async function mountAfterLoss(guest: Guest, files: GuestFiles, options = 'defaults'): Promise<void> {
  const mount = `mount -t ext4 -o ${options} ${guest.device} /mnt`;
  await guest.run(`${mount} && umount /mnt && fsck.ext4 -fn ${guest.device} && ${mount}`);
  expect(await files.wrong(guest)).toEqual([]);
}

/** Files change until `lose` takes disk or guest away; nothing fails before. */
export async function loseAtWork(
  guest: Guest,
  files: GuestFiles,
  afterMs: number,
  lose: () => unknown,
): Promise<void> {
  let isLost = false;
  const loss = sleep(afterMs).then(() => {
    isLost = true;
    return lose();
  });
  try {
    await files.workOn(guest);
  } catch (error) {
    if (!isLost || !(error instanceof CommandFailed || error instanceof Gone)) throw error;
  }
  await loss;
  await guest.kill();
}

/** After a kill: as online.md promises. */
export function expectValidWithoutMark(image: string): void {
  const { corruptions, errors } = checkImage(image);
  expect({ corruptions, errors }).toEqual({ corruptions: 0, errors: 0 });
  expect(JSON.parse(qemuImg('info', '--output=json', image))).not.toHaveProperty('dirty-flag', true);
}
