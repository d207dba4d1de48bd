/** What is refused when a disk is opened, and by which name; locks; backing files that are not as they should be. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, onTestFinished, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { image, type ImageBuilder } from '../support/image-builder.js';
import { qemuImg, qemuIo, requireQemu } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();

function refusal(builder: ImageBuilder, readOnly = false): Promise<unknown> {
  const bytes = builder.build();
  const device = new MemoryDevice(bytes);
  return Qcow2Disk.on(device, { readOnly }).then(
    () => null,
    (error: unknown) => {
      expect(device.bytes()).toEqual(bytes);
      return error;
    },
  );
}

describe('a disk is refused', () => {
  test.each([
    ['that LUKS encrypts', image({ encryption: 2 }).write(0), /encrypted \(LUKS\)/],
    ['with legacy AES', image({ encryption: 1 }).write(0), /encrypted \(legacy AES\)/],
    ['with an external data file', image({ dataFile: true }).write(0), /external data file/],
  ])('%s', async (_, builder, words) => {
    for (const readOnly of [true, false]) {
      expect(await refusal(builder, readOnly)).toMatchObject({
        code: 'UNSUPPORTED',
        message: expect.stringMatching(words) as string,
      });
    }
  });

  test('for writing where bitmaps are to record it, and taken where they do not', async () => {
    const recording = image().write(0).bitmap('a', { auto: true });
    expect(await refusal(recording)).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/persistent bitmaps that record writes/) as string,
    });
    expect(await refusal(recording, true)).toBeNull();
    expect(await refusal(image().write(0).bitmap('a', { auto: false }))).toBeNull();
    // What was not closed cleanly is not valid anyway.
    expect(await refusal(image().write(0).bitmap('a', { auto: true, inUse: true }))).toBeNull();
  });

  test('where it is damaged', async () => {
    const bytes = image().write(0).write(1).build();
    bytes.fill(0xff, bytes.length - 512);
    const damaged = Uint8Array.from(bytes);
    new DataView(damaged.buffer).setBigUint64(40, 0x1ff_0000n);
    await expect(Qcow2Disk.on(new MemoryDevice(damaged))).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('with a cache of no number of bytes', async () => {
    const device = new MemoryDevice(image().build());
    await expect(Qcow2Disk.on(device, { cacheBytes: Number.NaN })).rejects.toMatchObject({ code: 'USAGE' });
  });
});

describe('a backing file', () => {
  const base = directory.path('base.raw');
  fs.writeFileSync(base, new Uint8Array(4096).fill(3));

  function overlay(name: string, backingFile: string, backingFormat?: string): string {
    const bytes = image({ backingFile, ...(backingFormat !== undefined && { backingFormat }) })
      .write(1)
      .build();
    return directory.store(name, bytes);
  }

  test.each([
    ['that is missing', 'absent.raw', 'raw', 'CANNOT_OPEN', /"absent\.raw".*no such file/],
    ['whose format is not said', 'base.raw', undefined, 'UNSUPPORTED', /does not say which format/],
    ['of another format', 'base.raw', 'vmdk', 'UNSUPPORTED', /its format is "vmdk"/],
    ['that is no file', 'nbd://host/disk', 'raw', 'UNSUPPORTED', /not a file/],
    ['that is no qcow2 image though it is called one', 'base.raw', 'qcow2', 'NOT_QCOW2', /"base\.raw"/],
  ])('%s is refused by name', async (_, name, format, code, words) => {
    const path = overlay('refused.qcow2', name, format);
    for (const readOnly of [true, false]) {
      await expect(Qcow2Disk.open(path, { readOnly })).rejects.toMatchObject({
        code,
        message: expect.stringMatching(words) as string,
      });
    }
    // Nothing is left open, or locked.
    await (await Qcow2Disk.open(overlay('taken.qcow2', 'base.raw', 'raw'))).close();
  });

  test('that leads back to where it began is refused', async () => {
    overlay('b.qcow2', 'a.qcow2', 'qcow2');
    const path = overlay('a.qcow2', 'b.qcow2', 'qcow2');
    await expect(Qcow2Disk.open(path, { readOnly: true })).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringMatching(/leads back/) as string,
    });
    // The image itself is locked by then.
    await expect(Qcow2Disk.open(path)).rejects.toMatchObject({ code: 'IN_USE' });
  });

  test('may be that of several disks at a time, but nobody writes to it meanwhile', async () => {
    requireQemu();
    const shared = directory.path('shared.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', shared, '1M');
    qemuIo(shared, ['write -q -P 8 0 64k']);
    const disks = [];
    for (const name of ['one.qcow2', 'two.qcow2'])
      disks.push(await Qcow2Disk.open(overlay(name, 'shared.qcow2', 'qcow2')));
    const sector = new Uint8Array(512);
    for (const disk of disks) {
      await disk.read(sector, 0);
      expect(sector.every((byte) => byte === 8)).toBe(true);
    }
    // QEMU reads it, too.
    expect(qemuIo(shared, ['read -P 8 0 64k'], ['-r'])).toContain('read 65536/65536');
    expect(() => qemuIo(shared, ['write -q 0 512'])).toThrow(/lock/);
    await expect(Qcow2Disk.open(shared)).rejects.toMatchObject({ code: 'IN_USE' });
    await disks[0]!.close();
    expect(() => qemuIo(shared, ['write -q 0 512'])).toThrow(/lock/);
    await disks[1]!.close();
    qemuIo(shared, ['write -q 0 512']);
  });

  test('that QEMU writes to is refused as in use', async () => {
    requireQemu();
    const busy = directory.path('busy.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', busy, '1M');
    const server = await serve(busy);
    const path = overlay('over-busy.qcow2', 'busy.qcow2', 'qcow2');
    await expect(Qcow2Disk.open(path)).rejects.toMatchObject({ code: 'IN_USE' });
    await expect(Qcow2Disk.open(busy, { readOnly: true })).rejects.toMatchObject({ code: 'IN_USE' });
    server.kill();
  });
});

async function serve(path: string): Promise<ChildProcess> {
  const socket = directory.path('socket');
  const child = spawn('qemu-nbd', ['-f', 'qcow2', '-t', '-k', socket, path], { stdio: 'ignore' });
  onTestFinished(() => void child.kill());
  while (!fs.existsSync(socket)) await sleep(10);
  return child;
}
