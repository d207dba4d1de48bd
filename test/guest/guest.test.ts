/**
 * A Linux guest under QEMU whose disk is `serve`: what a real ext4 does with a disk, trims included, through the end of the
 * guest, of the server, and a server that is killed. SEED: the same work, killed at moments as the machine has it.
 */
import fs from 'node:fs';
import { expect, test } from 'vitest';
import { cli } from '../e2e/cli.js';
import type { Serving } from '../e2e/serving.js';
import { qemuImg } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { GuestFiles } from './guest-files.js';
import type { Guest } from './guest.js';
import { expectValidWithoutMark, loseAtWork, Machine, mountAfterLoss, requireGuest } from './machine.js';

const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const MIB = 1 << 20;
const FILES = 48;
/** Journal, tables and groups of ext4, and clusters that are in use in part. */
const SURPLUS_BYTES = 20 * MIB;
const timeout = 180_000;
const directory = temporaryDirectory();

test(`a guest fills its disk, trims it, and loses it (SEED=${SEED})`, { timeout }, async (context) => {
  requireGuest(context);
  const random = new Random(SEED);
  const machine = new Machine(directory);
  const { image } = machine;
  const files = new GuestFiles(random);
  let compactions = 0;
  const sizeNow = (): number => fs.statSync(image).size;
  qemuImg('create', '-q', '-f', 'qcow2', image, '1G');

  await fillAndTrim();
  compactOffline();
  const snapshot = keepSnapshot();
  await loseServer();
  await findAllAgain();
  console.log({ ...files.done, compactions });

  /** A new file system; half of its files go again, and the disk is told. */
  async function fillAndTrim(): Promise<void> {
    const server = await machine.serve();
    const guest = await machine.boot(server, 'blk');
    await guest.run(`mkfs.ext4 -q ${guest.device} && mount -t ext4 ${guest.device} /mnt`);
    for (let i = 0; i < FILES; i++)
      await files.write(guest, random.between(1 * MIB, 3 * MIB), { atOnce: false });
    await files.flush(guest);
    expect(await files.wrong(guest)).toEqual([]);
    const before = files.bytes;
    await files.remove(
      guest,
      files.names.filter((_, i) => i % 2 === 0),
    );
    expect(await files.trim(guest)).toBeGreaterThan(before - files.bytes);
    expect(await files.wrong(guest)).toEqual([]);
    await compactBeside(guest, server);
    await guest.run('umount /mnt');
    await machine.stop(server);
    await guest.kill();
  }

  /** The file gets shorter while the guest is at work, and when it rests by all that it has trimmed. */
  async function compactBeside(guest: Guest, server: Serving): Promise<void> {
    const before = sizeNow();
    expect(before).toBeGreaterThan(FILES * MIB);
    const { end } = machine.keepCompacting(server);
    const until = performance.now() + 3000;
    await files.workOn(guest, () => performance.now() > until);
    const meanwhile = sizeNow();
    await files.trim(guest);
    compactions = await end();
    expect(meanwhile).toBeLessThan(before);
    expect(sizeNow()).toBeLessThan(files.bytes + SURPLUS_BYTES);
    expect(await files.wrong(guest)).toEqual([]);
  }

  /** There is hardly anything left to gain. */
  function compactOffline(): void {
    const before = directory.path('before.qcow2');
    fs.copyFileSync(image, before);
    expect(cli([image]).status).toBe(0);
    expect(qemuImg('compare', image, before)).toContain('identical');
    expect(sizeNow()).toBeGreaterThan(fs.statSync(before).size - 4 * MIB);
    fs.rmSync(before);
  }

  function keepSnapshot(): { expectUnchanged: () => void } {
    const kept = directory.path('snapshot.raw');
    const now = directory.path('snapshot-now.raw');
    qemuImg('snapshot', '-c', 'kept', image);
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, kept);
    return {
      expectUnchanged() {
        qemuImg('convert', '-f', 'qcow2', '-l', 'kept', '-O', 'raw', image, now);
        expect(qemuImg('compare', '-f', 'raw', '-F', 'raw', kept, now)).toContain('identical');
      },
    };
  }

  /** Over data that the snapshot shares, with discards under way all the time. */
  async function loseServer(): Promise<void> {
    const server = await machine.serve('--keep-erased', '200');
    const guest = await machine.boot(server, 'scsi');
    await guest.run(`mount -t ext4 -o discard ${guest.device} /mnt`);
    expect(await files.wrong(guest)).toEqual([]);
    const { end } = machine.keepCompacting(server);
    await loseAtWork(guest, files, 3000 + random.int(3000), () => server.kill('SIGKILL'));
    await server.ended;
    compactions += await end();
    expectValidWithoutMark(image);
    snapshot.expectUnchanged();
  }

  async function findAllAgain(): Promise<void> {
    const server = await machine.serve();
    const guest = await machine.boot(server, 'blk');
    await mountAfterLoss(guest, files);
    await files.write(guest, MIB, { atOnce: true });
    await guest.run('umount /mnt');
    await guest.powerOff();
    await machine.stop(server);
    snapshot.expectUnchanged();
  }
});
