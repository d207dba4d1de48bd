/** Clusters that zstd has compressed: what QEMU makes, and what is legal or hostile beyond it. */
import fs from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { Qcow2Disk } from '../../src/disk/qcow2-disk.js';
import { unzstd } from '../../src/disk/zstd.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { image } from '../support/image-builder.js';
import { checkImage, qemuImg, requireQemu } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();

beforeAll(() => requireQemu());

/** Words of a small language, numbers, noise, and zeroes between. */
function contentOf(lengthBytes: number): Buffer {
  const random = new Random(11);
  const words = Array.from({ length: 300 }, () =>
    Buffer.from(random.bytes(random.between(2, 9))).toString('base64'),
  );
  const content = Buffer.alloc(lengthBytes);
  for (let at = 0; at < lengthBytes;) {
    const kind = random.int(10);
    if (kind < 7) {
      const text = Array.from({ length: random.between(1, 400) }, () => random.pick(words)).join(' ');
      at += content.write(text, at, 'latin1');
    } else if (kind === 7) {
      content.set(random.bytes(Math.min(5000, lengthBytes - at)), at);
      at += 5000;
    } else at += random.int(30_000);
  }
  return content;
}

describe('what QEMU has compressed', () => {
  test.each(['512', '4k', '64k', '2M'])('with clusters of %s is read, and rewritten', async (size) => {
    const [raw, path] = [directory.path('content.raw'), directory.path(`zstd-${size}.qcow2`)];
    const content = contentOf(size === '512' ? 300_000 - (300_000 % 512) : 6 << 20);
    fs.writeFileSync(raw, content);
    qemuImg(
      ...['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o'],
      ...[`compression_type=zstd,cluster_size=${size}`, raw, path],
    );
    const disk = await Qcow2Disk.open(path);
    const read = Buffer.alloc(content.length);
    await disk.read(read, 0);
    expect(read.equals(content)).toBe(true);
    const part = Buffer.alloc(700, 0xab);
    for (let at = 100; at + part.length < content.length; at += 500_000) {
      await disk.write(part, at);
      content.set(part, at);
    }
    await disk.close();
    expect(checkImage(path)).toEqual({ corruptions: 0, leaks: 0, errors: 0 });
    fs.writeFileSync(raw, content);
    expect(qemuImg('compare', '-f', 'raw', '-F', 'qcow2', raw, path)).toContain('identical');
  });
});

/** A frame of one block, stored as it is or as one byte again and again. */
function frame(block: Buffer | { byte: number; count: number }): Buffer {
  const [type, size, bytes] = Buffer.isBuffer(block)
    ? [0, block.length, block]
    : [1, block.count, Buffer.from([block.byte])];
  const header = Buffer.alloc(3);
  header.writeUIntLE((size << 3) | (type << 1) | 1, 0, 3);
  // A window of 128 KiB, and no word of the content's length.
  const head = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3]);
  return Buffer.concat([head, header, bytes]);
}

describe('frames', () => {
  const text = Buffer.from('a cluster of 32 bytes, not a bit');

  test('what follows them is not looked at', async () => {
    expect(Buffer.from(await unzstd(Buffer.concat([frame(text), Buffer.alloc(77, 0xfd)]), 32))).toEqual(text);
    // With a checksum, as the command of zstd makes it.
    const checked = Buffer.from(
      '28b52ffd04580101006120636c7573746572206f662033322062797465732c206e6f7420612062697469c899b6',
      'hex',
    );
    expect(Buffer.from(await unzstd(Buffer.concat([checked, frame(text)]), 32))).toEqual(text);
    checked[checked.length - 1]! ^= 1;
    await expect(unzstd(checked, 32)).rejects.toThrow();
  });

  test('several make one cluster', async () => {
    const parts = [frame(text.subarray(0, 10)), frame(text.subarray(10)), frame({ byte: 7, count: 4 })];
    expect(Buffer.from(await unzstd(Buffer.concat(parts), 36))).toEqual(
      Buffer.concat([text, Buffer.alloc(4, 7)]),
    );
  });

  const whole = frame(text);
  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['something else', Buffer.alloc(64, 0x5a)],
    ['a frame that is cut off', whole.subarray(0, -1)],
    ['a head that is cut off', whole.subarray(0, 7)],
    ['too little', frame(text.subarray(1))],
    ['too much', frame(Buffer.concat([text, text]))],
    ['a block of no known kind', Buffer.concat([whole.subarray(0, 6), Buffer.from([0x07, 1, 0, 9])])],
    ['an empty frame, again and again', Buffer.concat(Array(50).fill(frame(Buffer.alloc(0))) as Buffer[])],
    [
      'a content of a TiB',
      Buffer.concat([whole.subarray(0, 4), Buffer.from([0xe0, 0, 0, 0, 0, 0, 1, 0, 0]), whole.subarray(6)]),
    ],
  ])('%s is damage', async (_, bytes) => {
    await expect(unzstd(bytes, 32)).rejects.toThrow();
  });

  test('blocks that claim more than a cluster, one after the other, are damage at once', async () => {
    const rle = Buffer.alloc(4);
    rle.writeUIntLE((0x1fffff << 3) | (1 << 1), 0, 3);
    const bomb = Buffer.concat([
      Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3]),
      ...(Array(12_000).fill(rle) as Buffer[]),
      frame(text).subarray(6),
    ]);
    const before = process.memoryUsage.rss();
    await expect(unzstd(bomb, 65_536)).rejects.toThrow();
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20);
  });

  test('noise is damage, or some cluster, but never a hang or anything else', async () => {
    const random = new Random(5);
    const cluster = Buffer.alloc(4096);
    for (let i = 0; i < 800; i++) {
      const bytes = Buffer.concat([frame(Buffer.from(random.bytes(60))), Buffer.from(random.bytes(200))]);
      for (let flips = random.between(1, 8); flips > 0; flips--)
        bytes[random.int(bytes.length)] = random.int(256);
      // A compressed block.
      if (random.chance(0.7)) bytes[6] = (bytes[6]! & ~6) | 4;
      try {
        expect(await unzstd(bytes, cluster.length)).toHaveLength(cluster.length);
      } catch (error) {
        expect(error).toBeInstanceOf(Error);
      }
    }
  });
});

test('a cluster that cannot be unpacked is damage with its place, and can be overwritten', async () => {
  // Its bytes are any.
  const bytes = image({ compressionType: 'zstd', headerLength: 112 }).compress(0).write(1).build();
  const disk = await Qcow2Disk.on(new MemoryDevice(bytes));
  const sector = new Uint8Array(512);
  await expect(disk.read(sector, 0)).rejects.toMatchObject({
    code: 'CORRUPT',
    message: expect.stringMatching(/compressed cluster cannot be decompressed \(host offset 0x/) as string,
  });
  await disk.read(sector, 512);
  await disk.write(sector.fill(7), 0);
  await disk.read(sector.fill(0), 0);
  expect(sector.every((byte) => byte === 7)).toBe(true);
});
