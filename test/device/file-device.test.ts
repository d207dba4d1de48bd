import fs from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { FileDevice, type FileCalls } from '../../src/device/file-device.js';
import { fileSystemKey } from '../../src/device/reservations.js';
import { systemError } from '../../src/system-error.js';
import { temporaryPath } from './temporary-directory.js';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

function openDevice(
  content: Uint8Array,
  calls: Partial<FileCalls> = {},
): { device: FileDevice; path: string } {
  const path = temporaryPath('image');
  fs.writeFileSync(path, content);
  const device = new FileDevice(fs.openSync(path, 'r+'), path, { calls });
  onTestFinished(() => device.close());
  return { device, path };
}

/** Transfers at most three bytes a call. */
const threeBytesAtMost = (call: FileCalls['read']): FileCalls['read'] => {
  return (fd, bytes, start, length, position, done) =>
    call(fd, bytes, start, Math.min(length, 3), position, done);
};

const letters = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('reading and writing', () => {
  test('a read fills what lies beyond the end with zeroes', async () => {
    const { device } = openDevice(letters('abc'));
    const target = new Uint8Array(5).fill(7);
    await device.read(target, 1);
    expect([...target]).toEqual([98, 99, 0, 0, 0]);
    await device.read(target, 100);
    expect([...target]).toEqual([0, 0, 0, 0, 0]);
  });

  test('short reads and short writes are carried on to the end', async () => {
    const { device, path } = openDevice(letters('................'), {
      read: threeBytesAtMost(fs.read),
      write: threeBytesAtMost(fs.write),
    });
    await device.write(letters('0123456789'), 2);
    const target = new Uint8Array(16);
    await device.read(target, 0);
    expect(new TextDecoder().decode(target)).toBe('..0123456789....');
    expect(fs.readFileSync(path, 'utf8')).toBe('..0123456789....');
  });

  test('a write that stops for lack of space rejects, and the length says what arrived', async () => {
    let calls = 0;
    const { device, path } = openDevice(new Uint8Array(0), {
      write: (fd, bytes, start, length, position, done) => {
        calls += 1;
        if (calls === 2) done(systemError('ENOSPC', 'write'), 0);
        else fs.write(fd, bytes, start, Math.min(length, 4), position, done);
      },
    });
    await expect(device.write(letters('abcdefgh'), 0)).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(device.lengthBytes).toBe(4);
    expect(fs.readFileSync(path, 'utf8')).toBe('abcd');
  });

  test('a write that makes no progress rejects instead of looping', async () => {
    const { device } = openDevice(new Uint8Array(0), {
      write: (_fd, _bytes, _start, _length, _position, done) => done(null, 0),
    });
    await expect(device.write(letters('a'), 0)).rejects.toMatchObject({ code: 'EIO' });
  });

  test('a file that someone else cut off gives an error, not zeroes', async () => {
    const { device, path } = openDevice(letters('abcdef'));
    fs.truncateSync(path, 2);
    await expect(device.read(new Uint8Array(6), 0)).rejects.toMatchObject({ code: 'EIO' });
  });

  test('the length follows writes and truncations', async () => {
    const { device, path } = openDevice(letters('abc'));
    expect(device.lengthBytes).toBe(3);
    await device.write(letters('xy'), 2);
    expect(device.lengthBytes).toBe(4);
    await device.truncate(1);
    expect(device.lengthBytes).toBe(1);
    await device.truncate(3);
    expect(device.lengthBytes).toBe(3);
    expect(fs.readFileSync(path, 'latin1')).toBe('a\0\0');
  });

  test('the length stays that of the file when a truncation fails', async () => {
    const { device } = openDevice(letters('abc'), {
      ftruncate: (_fd, _length, done) => done(systemError('EIO', 'ftruncate')),
    });
    await expect(device.truncate(1)).rejects.toMatchObject({ code: 'EIO', syscall: 'ftruncate' });
    expect(device.lengthBytes).toBe(3);
  });

  test('offsets beyond 4 GiB are exact', async () => {
    const { device } = openDevice(new Uint8Array(0));
    await device.write(letters('far'), 5 * GIB + 7);
    const target = new Uint8Array(4);
    await device.read(target, 5 * GIB + 6);
    expect([...target]).toEqual([0, 102, 97, 114]);
    expect(device.lengthBytes).toBe(5 * GIB + 10);
  });

  test.each([Number.NaN, -1, 0.5, 2 ** 53])(
    'offset %s is refused: Node would write elsewhere',
    async (offset) => {
      const { device, path } = openDevice(letters('abc'));
      await expect(device.write(letters('x'), offset)).rejects.toThrow(RangeError);
      await expect(device.read(new Uint8Array(1), offset)).rejects.toThrow(RangeError);
      expect(fs.readFileSync(path, 'utf8')).toBe('abc');
    },
  );
});

describe('flushing', () => {
  test('after one failed flush every later flush and change rejects, reading goes on', async () => {
    let failing = true;
    let flushes = 0;
    const { device, path } = openDevice(letters('abc'), {
      fdatasync: (_fd, done) => {
        flushes += 1;
        done(failing ? systemError('EIO', 'fdatasync') : null);
      },
    });
    await expect(device.flush()).rejects.toMatchObject({ code: 'EIO', syscall: 'fdatasync' });
    failing = false;
    await expect(device.flush()).rejects.toMatchObject({ code: 'EIO' });
    await expect(device.write(letters('x'), 0)).rejects.toMatchObject({ code: 'EIO' });
    await expect(device.truncate(0)).rejects.toMatchObject({ code: 'EIO' });
    await expect(device.punch(0, 1)).rejects.toMatchObject({ code: 'EIO' });
    await device.read(new Uint8Array(1), 0);
    expect(flushes).toBe(1);
    expect(fs.readFileSync(path, 'utf8')).toBe('abc');
  });

  test('of two flushes at the same time none succeeds after the other has failed', async () => {
    const waiting: ((error: NodeJS.ErrnoException | null) => void)[] = [];
    const { device } = openDevice(new Uint8Array(0), { fdatasync: (_fd, done) => waiting.push(done) });
    const outcomes = Promise.allSettled([device.flush(), device.flush()]);
    waiting[0]?.(systemError('EIO', 'fdatasync'));
    await Promise.resolve();
    waiting[1]?.(null);
    expect((await outcomes).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  });

  test('a flush on a real file succeeds', async () => {
    const { device } = openDevice(letters('abc'));
    await device.write(letters('x'), 0);
    await device.flush();
  });
});

describe('holes', () => {
  test('data and holes of a real file are found, beyond 2 and 4 GiB as well', async () => {
    const { device } = openDevice(new Uint8Array(0));
    await device.truncate(8 * GIB);
    for (const offset of [0, 3 * GIB, 6 * GIB]) await device.write(new Uint8Array(MIB).fill(1), offset);
    const end = 8 * GIB;
    expect(device.dataExtent(0, end)).toEqual({ start: 0, end: MIB });
    expect(device.dataExtent(MIB, end)).toEqual({ start: 3 * GIB, end: 3 * GIB + MIB });
    expect(device.dataExtent(3 * GIB + 5, 3 * GIB + 9)).toEqual({ start: 3 * GIB + 5, end: 3 * GIB + 9 });
    expect(device.dataExtent(3 * GIB + MIB, 6 * GIB)).toBeNull();
    expect(device.dataExtent(4 * GIB, end)).toEqual({ start: 6 * GIB, end: 6 * GIB + MIB });
    expect(device.dataExtent(6 * GIB + MIB, end)).toBeNull();
    expect(device.dataExtent(end, end + 1)).toBeNull();
    expect(device.allocatedBytes()).toBeGreaterThanOrEqual(3 * MIB);
    expect(device.allocatedBytes()).toBeLessThan(4 * MIB);
  });

  test('a host that cannot search for holes calls everything data', () => {
    const { device } = openDevice(letters('abcdef'), {
      seekData: () => {
        throw systemError('EINVAL', 'lseek');
      },
    });
    expect(device.dataExtent(1, 4)).toEqual({ start: 1, end: 4 });
    expect(device.dataExtent(1, 100)).toEqual({ start: 1, end: 6 });
  });

  test('a punched range reads as zeroes, becomes a hole, and the length stays', async (context) => {
    const { device, path } = openDevice(new Uint8Array(4 * MIB).fill(1));
    context.skip(!device.canPunch, 'this host cannot punch holes');
    await device.flush();
    const before = device.allocatedBytes();
    await device.punch(MIB, 3 * MIB);
    expect(device.allocatedBytes()).toBe(before - 3 * MIB);
    expect(device.dataExtent(MIB, 4 * MIB)).toBeNull();
    expect(device.lengthBytes).toBe(4 * MIB);
    const content = fs.readFileSync(path);
    expect(content.length).toBe(4 * MIB);
    expect(content.indexOf(0)).toBe(MIB);
    expect(content.lastIndexOf(1)).toBe(MIB - 1);
  });

  test('a long range is punched in pieces, all of them', async (context) => {
    const { device } = openDevice(new Uint8Array(0));
    context.skip(!device.canPunch, 'this host cannot punch holes');
    await device.truncate(GIB);
    for (const offset of [0, 64 * MIB - 4096, 64 * MIB, 700 * MIB]) {
      await device.write(new Uint8Array(4096).fill(1), offset);
    }
    await device.punch(0, GIB);
    expect(device.dataExtent(0, GIB)).toBeNull();
  });

  test('asking whether it can punch changes neither content nor length nor blocks', () => {
    const { device, path } = openDevice(letters('abc'));
    const before = fs.statSync(path);
    expect(typeof device.canPunch).toBe('boolean');
    const after = fs.statSync(path);
    expect([after.size, after.blocks]).toEqual([before.size, before.blocks]);
    expect(fs.readFileSync(path, 'utf8')).toBe('abc');
  });

  test('a descriptor that only reads cannot punch', async () => {
    const path = temporaryPath('image');
    fs.writeFileSync(path, 'abc');
    const device = new FileDevice(fs.openSync(path, 'r'), path);
    expect(device.canPunch).toBe(false);
    await expect(device.punch(0, 1)).rejects.toThrow(/^(EBADF|EOPNOTSUPP): .*, fallocate$/);
    await device.close();
  });
});

describe('sharing blocks', () => {
  const BLOCKS = new Uint8Array(4 * 65536).map((_, at) => 1 + Math.floor(at / 65536));

  test('a host that says it cannot is not asked again, and nothing is changed', async () => {
    for (const code of ['EOPNOTSUPP', 'EINVAL', 'EXDEV', 'ENOTTY', 'ENOSYS']) {
      let asked = 0;
      const { device, path } = openDevice(BLOCKS, {
        canShare: () => true,
        shareRange: () => {
          asked++;
          return Promise.reject(systemError(code, 'ioctl'));
        },
      });
      expect(await device.share(0, 65536, 65536)).toBe(false);
      expect(device.canShare).toBe(false);
      expect(await device.share(0, 65536, 65536)).toBe(false);
      expect(asked).toBe(1);
      expect(fs.readFileSync(path).equals(BLOCKS)).toBe(true);
    }
  });

  test('a host that fails at it is an error', async () => {
    const { device } = openDevice(BLOCKS, {
      canShare: () => true,
      shareRange: () => Promise.reject(systemError('ENOSPC', 'ioctl')),
    });
    await expect(device.share(0, 65536, 65536)).rejects.toMatchObject({ code: 'ENOSPC', syscall: 'ioctl' });
  });

  test('what is no whole block, or reaches beyond the end, is left to copying; the next is shared', async () => {
    const shared: number[][] = [];
    const { device } = openDevice(BLOCKS, {
      canShare: () => true,
      shareRange: (_fd, ...range) => {
        shared.push(range);
        return Promise.resolve();
      },
    });
    expect(await device.share(512, 65536, 65536)).toBe(false);
    expect(await device.share(0, 512, 65536)).toBe(false);
    expect(await device.share(0, 65536, 512)).toBe(false);
    expect(await device.share(3 * 65536, 0, 2 * 65536)).toBe(false);
    expect(await device.share(3 * 65536, 65536, 65536)).toBe(true);
    expect(shared).toEqual([[3 * 65536, 65536, 65536]]);
  });

  test('asking whether it can changes nothing, the times included', () => {
    const { device, path } = openDevice(BLOCKS);
    const before = fs.statSync(path, { bigint: true });
    expect(typeof device.canShare).toBe('boolean');
    const { size, blocks, mtimeNs, ctimeNs } = fs.statSync(path, { bigint: true });
    expect({ size, blocks, mtimeNs, ctimeNs }).toEqual({
      size: before.size,
      blocks: before.blocks,
      mtimeNs: before.mtimeNs,
      ctimeNs: before.ctimeNs,
    });
  });

  test('after a failed flush nothing is shared', async () => {
    const { device } = openDevice(BLOCKS, {
      canShare: () => true,
      shareRange: () => Promise.resolve(),
      fdatasync: (_fd, done) => done(systemError('EIO', 'fdatasync')),
    });
    await expect(device.flush()).rejects.toMatchObject({ code: 'EIO' });
    await expect(device.share(0, 65536, 65536)).rejects.toMatchObject({ code: 'EIO' });
  });
});

describe('the host and closing', () => {
  test('free space is that of the file system, or Infinity where the path is gone', async () => {
    const { device, path } = openDevice(letters('abc'));
    expect(await device.freeBytes()).toBeGreaterThan(0);
    expect(Number.isFinite(await device.freeBytes())).toBe(true);
    fs.unlinkSync(path);
    expect(await device.freeBytes()).toBe(Infinity);
  });

  test('closing waits for a write that is under way', async () => {
    const events: string[] = [];
    let finish: (() => void) | undefined;
    const path = temporaryPath('image');
    const device = new FileDevice(fs.openSync(path, 'w+'), path, {
      calls: {
        write: (_fd, _bytes, _start, length, _position, done) => {
          finish = () => done(null, length);
        },
      },
      onClose: () => events.push('closed'),
    });
    const writing = device.write(letters('a'), 0).then(() => events.push('written'));
    const closing = device.close();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(events).toEqual([]);
    finish?.();
    await Promise.all([writing, closing]);
    expect(events).toEqual(['written', 'closed']);
  });

  test('closing twice closes once, and nothing works afterwards', async () => {
    let closed = 0;
    const path = temporaryPath('image');
    const device = new FileDevice(fs.openSync(path, 'w+'), path, { onClose: () => (closed += 1) });
    await Promise.all([device.close(), device.close()]);
    await device.close();
    expect(closed).toBe(1);
    await expect(device.write(letters('a'), 0)).rejects.toMatchObject({ code: 'EBADF' });
    await expect(device.read(new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'EBADF' });
    await expect(device.flush()).rejects.toMatchObject({ code: 'EBADF' });
  });
});

describe('room of the host', () => {
  const host = (type: number, blocks: number) => ({ type, blocks, bavail: 100, bsize: 4096 });
  const statfs = () => Promise.resolve(host(0xef53, 1000));

  test('what others have reserved is not free; what it has reserved itself is', async () => {
    const { device: one } = openDevice(letters('a'), { statfs });
    const { device: other } = openDevice(letters('b'), { statfs });
    for (const device of [one, other]) expect(await device.freeBytes()).toBe(409600);
    one.reserve(300_000);
    expect(await one.freeBytes()).toBe(409600);
    expect(await other.freeBytes()).toBe(109600);
    one.reserve(1000);
    other.reserve(500_000);
    expect(await one.freeBytes()).toBe(0);
    await other.close();
    expect(await one.freeBytes()).toBe(409600);
    // Closed: there is nobody who could take it back.
    other.reserve(500_000);
    expect(await one.freeBytes()).toBe(409600);
  });

  test('a host that does not say how much is free', async () => {
    const { device } = openDevice(letters('a'), {
      statfs: () => Promise.reject(systemError('EIO', 'statfs')),
    });
    expect(await device.freeBytes()).toBe(Infinity);
    device.reserve(1);
  });

  test('subvolumes of one btrfs share their room, other devices do not', () => {
    const BTRFS = 0x9123683e;
    expect(fileSystemKey(1, host(BTRFS, 10))).toBe(fileSystemKey(2n, host(BTRFS, 10)));
    expect(fileSystemKey(1, host(BTRFS, 10))).not.toBe(fileSystemKey(1, host(BTRFS, 11)));
    expect(fileSystemKey(1, host(0xef53, 10))).not.toBe(fileSystemKey(2, host(0xef53, 10)));
    expect(fileSystemKey(1, host(0xef53, 10))).toBe(fileSystemKey(1n, host(0xef53, 11)));
  });
});
