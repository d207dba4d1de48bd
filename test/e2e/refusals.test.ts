/** What is refused: one line on stderr, the documented status, no trace, and not a byte of the file changed. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { EXIT_STATUS, QcowError, check, compact, eraseJunk, plan, type ErrorCode } from '../../src/index.js';
import { image as buildImage } from '../support/image-builder.js';
import { qemuImg, qemuIo } from '../support/qemu.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { cli } from './cli.js';
import { digests, expectMinimal, fileState, layoutOf, makeHoley, patch } from './images.js';

const CLUSTER = 4096;
const NOBODY = 65534;
const directory = temporaryDirectory();
const image = directory.path('image.qcow2');

/** By the command line, and by every function of the library. */
async function expectRefusal(target: string, code: ErrorCode, words: RegExp): Promise<void> {
  const exists = fs.existsSync(target) && fs.statSync(target).isFile();
  const state = exists ? fileState(target) : null;
  const run = cli(['--quiet', target]);
  expect(run).toMatchObject({ status: EXIT_STATUS[code], signal: null, stdout: '' });
  expect(run.stderr).toMatch(/^qcow-compact: [^\n]*\n$/);
  expect(run.stderr).toMatch(words);
  expect(run.stderr).not.toMatch(/node:|\.js:|undefined|NaN|\[object/);
  for (const call of [compact, eraseJunk, plan, check]) {
    const error = await call(target).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(QcowError);
    expect(error).toMatchObject({ code, message: expect.stringMatching(words) as string });
  }
  if (exists) expect(fileState(target)).toEqual(state);
}

function word(value: bigint | number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

function half(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

describe('what is no image', () => {
  test.each([
    ['an empty file', '', 'NOT_QCOW2', /does not begin with the qcow2 magic/],
    ['three bytes', 'QFI', 'NOT_QCOW2', /magic/],
    ['text', 'x'.repeat(1000), 'NOT_QCOW2', /magic/],
    ['zeroes', '\0'.repeat(70000), 'NOT_QCOW2', /magic/],
    ['a header cut short', 'QFI\xfb\0\0\0\x03' + '\0'.repeat(60), 'CORRUPT', /truncated/],
  ] as const)('%s', async (_name, content, code, words) => {
    await expectRefusal(directory.store('other', Buffer.from(content, 'latin1')), code, words);
  });

  test('an image of qcow version 1', async () => {
    qemuImg('create', '-q', '-f', 'qcow', image, '1M');
    await expectRefusal(image, 'NOT_QCOW2', /version 1.*qemu-img convert -O qcow2/);
  });

  test.each(['vmdk', 'vdi', 'vhdx', 'raw'])('an image of format %s', async (format) => {
    qemuImg('create', '-q', '-f', format, image, '1M');
    await expectRefusal(image, 'NOT_QCOW2', /not a qcow2 image/);
  });

  test('a version that is unknown', async () => {
    makeHoley(image);
    patch(image, 4, half(4));
    await expectRefusal(image, 'UNSUPPORTED', /version 4/);
  });

  test('a directory, a FIFO, a device, nothing at all, a link to nothing', async () => {
    const fifo = directory.path('fifo');
    expect(spawnSync('mkfifo', [fifo]).status).toBe(0);
    const dangling = directory.path('dangling');
    fs.symlinkSync('nowhere', dangling);
    await expectRefusal(path.dirname(image), 'CANNOT_OPEN', /it is a directory/);
    await expectRefusal(fifo, 'CANNOT_OPEN', /it is a FIFO/);
    await expectRefusal('/dev/null', 'CANNOT_OPEN', /it is a character device/);
    await expectRefusal(directory.path('missing'), 'CANNOT_OPEN', /ENOENT/);
    await expectRefusal(dangling, 'CANNOT_OPEN', /ENOENT/);
    await expectRefusal(
      path.join(directory.store('file', Buffer.from('')), 'image'),
      'CANNOT_OPEN',
      /ENOTDIR/,
    );
  });
});

describe('a file that cannot be written', () => {
  /** Permissions do not bind the superuser. */
  const uid = process.geteuid?.() === 0 ? NOBODY : undefined;
  const as = uid === undefined ? {} : { uid };

  test('is refused for writing; a plan and a check are told without a lock, with a notice', () => {
    makeHoley(image);
    fs.chmodSync(path.dirname(image), 0o755);
    fs.chmodSync(image, 0o444);
    const state = fileState(image);
    for (const options of [[], ['--erase-only'], ['--keep-erased', '3']]) {
      const run = cli(['--quiet', ...options, image], as);
      expect(run).toMatchObject({ status: EXIT_STATUS.CANNOT_OPEN, stdout: '' });
      expect(run.stderr).toMatch(/^qcow-compact: [^\n]*for writing: permission denied \(EACCES\)[^\n]*\n$/);
    }
    for (const option of ['--dry-run', '--check']) {
      const run = cli([option, image], as);
      expect(run.status).toBe(0);
      expect(run.stderr).toContain('read-only');
    }
    expect(fileState(image)).toEqual(state);
    fs.chmodSync(image, 0o000);
    expect(cli(['--quiet', '--dry-run', image], as)).toMatchObject({ status: EXIT_STATUS.CANNOT_OPEN });
    fs.chmodSync(image, 0o644);
  });
});

describe('a field that is out of bounds', () => {
  const FIELDS: [string, number, Buffer, RegExp][] = [
    ['backing_file_offset beyond the first cluster', 8, word(CLUSTER + 8), /backing_file_offset/],
    ['backing_file_offset above 2^63', 8, word(2n ** 63n), /backing_file_offset/],
    ['cluster_bits 8', 20, half(8), /cluster_bits/],
    ['cluster_bits 22', 20, half(22), /cluster_bits/],
    ['cluster_bits 2^32 - 1', 20, half(0xffffffff), /cluster_bits/],
    ['size above what the L1 table maps', 24, word(2 ** 40), /l1_size/],
    ['l1_size 0', 36, half(0), /l1_size/],
    ['l1_size 2^32 - 1', 36, half(0xffffffff), /l1_size/],
    ['l1_size that reaches beyond the end', 36, half(4194304), /L1 table/],
    ['l1_table_offset not aligned', 40, word(CLUSTER + 512), /l1_table_offset/],
    ['l1_table_offset beyond the end', 40, word(2 ** 40), /L1 table/],
    ['l1_table_offset above 2^53', 40, word(2n ** 60n), /l1_table_offset|L1 table/],
    ['refcount_table_offset 0', 48, word(0), /refcount_table_offset/],
    ['refcount_table_offset not aligned', 48, word(CLUSTER + 8), /refcount_table_offset/],
    ['refcount_table_offset beyond the end', 48, word(2 ** 40), /refcount table/],
    ['refcount_table_offset above 2^53', 48, word(2n ** 64n - 512n), /refcount_table_offset|refcount table/],
    ['refcount_table_clusters 0', 56, half(0), /refcount_table_clusters/],
    ['refcount_table_clusters 2^32 - 1', 56, half(0xffffffff), /refcount_table_clusters/],
    ['refcount_table_clusters beyond the end', 56, half(2048), /refcount table/],
    ['nb_snapshots 2^32 - 1', 60, half(0xffffffff), /nb_snapshots/],
    ['nb_snapshots without a table', 60, half(65536), /snapshot/],
    ['snapshots_offset not aligned', 64, word(512), /snapshots_offset/],
    ['snapshots_offset beyond the end', 64, word(2 ** 40), /snapshot/],
    ['refcount_order 7', 96, half(7), /refcount_order/],
    ['header_length 96', 100, half(96), /header_length/],
    ['header_length 2^31', 100, half(2 ** 31), /header_length/],
    ['header_length 108', 100, half(108), /header_length/],
    [
      'an extension larger than the cluster',
      112,
      Buffer.concat([half(0x12345678), half(0x7fffffff)]),
      /extension/,
    ],
  ];

  test.each(FIELDS)('%s', async (_name, at, bytes, words) => {
    makeHoley(image);
    qemuImg('snapshot', '-c', 'a', image);
    patch(image, at, bytes);
    await expectRefusal(image, 'CORRUPT', words);
  });

  test('backing_file_size above its limit', async () => {
    makeHoley(image);
    patch(image, 8, word(1024));
    patch(image, 16, half(1024));
    await expectRefusal(image, 'CORRUPT', /backing_file_size/);
  });

  test('a virtual size of 2^60 bytes', async () => {
    makeHoley(image);
    patch(image, 24, word(2n ** 60n));
    await expectRefusal(image, 'CORRUPT', /virtual size/);
  });

  const ENTRIES: [string, (target: string) => number, bigint][] = [
    ['an L1 entry beyond the end', firstL1Entry, 2n ** 40n],
    ['an L1 entry not aligned', firstL1Entry, BigInt(CLUSTER + 512)],
    ['an L1 entry with a reserved bit', firstL1Entry, 1n],
    ['an L2 entry beyond the end', firstL2Entry, 2n ** 63n + 2n ** 40n],
    ['an L2 entry not aligned', firstL2Entry, 2n ** 63n + BigInt(CLUSTER + 512)],
    ['an L2 entry with a reserved bit', firstL2Entry, 2n],
    ['an L2 entry on the header', firstL2Entry, 2n ** 63n],
    ['an L2 entry on the L1 table', firstL2Entry, 2n ** 63n + BigInt(3 * CLUSTER)],
    ['a refcount block beyond the end', firstBlockEntry, 2n ** 40n],
    ['a refcount block not aligned', firstBlockEntry, 512n],
    ['a refcount block on the header', firstBlockEntry, 0n],
  ];

  test.each(ENTRIES)('%s', (name, slotOf, value) => {
    makeHoley(image);
    const slot = slotOf(image);
    // COPIED alone, or no block at all: other damage than an offset.
    patch(image, slot, word(value));
    if (name === 'an L2 entry on the header') return expectCorruptOrMinimal();
    const run = cli(['--quiet', image]);
    expect(run).toMatchObject({ status: EXIT_STATUS.CORRUPT, stdout: '' });
    expect(run.stderr).toMatch(/^qcow-compact: [^\n]*\n$/);
  });

  /** QEMU 7.2 takes an offset of 0 for "unallocated", whatever its COPIED flag says. */
  function expectCorruptOrMinimal(): void {
    const run = cli(['--quiet', image]);
    if (run.status === 0) expectMinimal(image);
    else expect(run.status).toBe(EXIT_STATUS.CORRUPT);
  }
});

function firstL1Entry(target: string): number {
  return layoutOf(target).l1Offset;
}

function firstL2Entry(target: string): number {
  const { view, l1Offset, clusterSize } = layoutOf(target);
  const l2 = Number(view.getBigUint64(l1Offset) & 0xfffffffffffe00n);
  for (let slot = l2; slot < l2 + clusterSize; slot += 8) if (view.getBigUint64(slot) !== 0n) return slot;
  throw new Error('the first L2 table is empty');
}

function firstBlockEntry(target: string): number {
  return layoutOf(target).refcountTableOffset;
}

/** One bitmap, in a directory at the start of the second cluster. */
const BITMAPS_EXTENSION = Buffer.from(
  '23852875000000180000000100000000' + '00000000000000200000000000001000',
  'hex',
);

describe('bitmaps that are not valid any more', () => {
  test.each(['1.1', '0.10'])(
    'once QEMU has dropped them, the image is compacted (compat %s)',
    async (compat) => {
      makeHoley(image, `compat=${compat},cluster_size=4096`);
      if (compat === '1.1') {
        qemuImg('bitmap', '--add', image, 'b');
        patch(image, 88, word(0));
      } else patch(image, 72, BITMAPS_EXTENSION);
      const before = digests(image);
      expect(cli(['--quiet', image])).toMatchObject({ status: EXIT_STATUS.UNSUPPORTED });
      qemuImg('check', '-q', '-r', 'leaks', image);
      expect((await compact(image)).outcome).toBe('compacted');
      expectMinimal(image);
      expect(digests(image)).toEqual(before);
    },
  );

  test('damaged ones are refused', async () => {
    makeHoley(image);
    qemuImg('bitmap', '--add', image, 'b');
    patch(image, layoutOf(image).bitmaps!.directoryOffset + 17, [8]);
    await expectRefusal(
      image,
      'CORRUPT',
      /bitmap 0 has a granularity .*bitmap directory at 0x[0-9a-f]+, byte 0/,
    );
  });
});

describe('corruption', () => {
  test('of any refcount below its references is refused and left alone', () => {
    makeHoley(image);
    const { view, refcountTableOffset, l1Offset } = layoutOf(image);
    const block = Number(view.getBigUint64(refcountTableOffset));
    patch(image, block + 2 * (l1Offset / CLUSTER), [0, 0]);
    const state = fileState(image);
    for (const options of [[], ['--erase-only'], ['--keep-erased', '3'], ['--dry-run']]) {
      const run = cli(['--quiet', ...options, image]);
      expect(run).toMatchObject({ status: EXIT_STATUS.CORRUPT, stdout: '' });
      expect(run.stderr).toMatch(/^qcow-compact: [^\n]*qemu-img check[^\n]*\n$/);
    }
    expect(fileState(image)).toEqual(state);
  });
});

describe('a file cut short', () => {
  test('anywhere is refused, or compacted where only junk is missing', () => {
    makeHoley(image);
    const bytes = fs.readFileSync(image);
    for (let length = 0; length < bytes.length; length += Math.ceil(bytes.length / 40) + 1) {
      fs.writeFileSync(image, bytes.subarray(0, length));
      const { hash } = fileState(image);
      const run = cli(['--quiet', image]);
      if (run.status === 0) {
        expectMinimal(image);
        continue;
      }
      expect([EXIT_STATUS.CORRUPT, EXIT_STATUS.NOT_QCOW2]).toContain(run.status);
      expect(run.stderr).toMatch(/^qcow-compact: [^\n]*\n$/);
      expect(fileState(image).hash).toBe(hash);
    }
  });
});

describe('a feature that is not handled', () => {
  const KINDS: [string, () => void, RegExp][] = [
    [
      'persistent bitmaps that software without them has written beside',
      () => {
        makeHoley(image);
        qemuImg('bitmap', '--add', image, 'b');
        patch(image, 88, word(0));
      },
      /bitmaps .* not valid any more.*qemu-img check -r leaks/,
    ],
    [
      'persistent bitmaps in version 2',
      () => {
        makeHoley(image, 'compat=0.10,cluster_size=4096');
        patch(image, 72, BITMAPS_EXTENSION);
      },
      /bitmaps .* not valid any more.*qemu-img check -r leaks/,
    ],
    [
      'a bitmap with extra data',
      () => {
        makeHoley(image);
        qemuImg('bitmap', '--add', image, 'b');
        patch(image, layoutOf(image).bitmaps!.directoryOffset + 20, half(4));
      },
      /bitmap 0 has 4 bytes of extra data/,
    ],
    [
      'an unknown encryption',
      () => {
        makeHoley(image);
        patch(image, 32, half(3));
      },
      /encrypt/,
    ],
    [
      'an unknown incompatible bit',
      () => {
        makeHoley(image);
        patch(image, 72, word(2n ** 40n));
      },
      /bit 40/,
    ],
    [
      'an unknown autoclear bit',
      () => {
        makeHoley(image);
        patch(image, 88, word(2n ** 5n));
      },
      /bit 5/,
    ],
  ];
  test.each(KINDS)('%s', async (_name, make, words) => {
    fs.rmSync(image, { force: true });
    make();
    await expectRefusal(image, 'UNSUPPORTED', words);
  });

  test('an unknown autoclear bit is gone after QEMU has opened the image for writing, as the message says', async () => {
    makeHoley(image);
    patch(image, 88, word(2n ** 5n));
    await expectRefusal(image, 'UNSUPPORTED', /`qemu-io -c quit IMAGE`/);
    qemuIo(image, ['quit']);
    expect((await compact(image)).outcome).toBe('compacted');
  });

  test.each([
    ['dirty', 1n],
    ['corrupt', 2n],
  ])('the %s bit', async (name, bit) => {
    makeHoley(image);
    patch(image, 72, word(bit));
    await expectRefusal(image, 'CORRUPT', new RegExp(`marked ${name}.*qemu-img check -r all`));
  });

  test('but unknown header extensions and compatible bits are kept', () => {
    const data = Buffer.from('what nobody knows');
    const built = buildImage({ clusterBits: 12, extensions: [{ type: 0x77777777, data }] });
    for (let cluster = 0; cluster < 20; cluster++) built.write(cluster);
    for (let cluster = 0; cluster < 10; cluster++) built.discard(cluster);
    fs.writeFileSync(image, built.build());
    patch(image, 80, word(2n ** 33n));
    expect(cli([image]).status).toBe(0);
    expectMinimal(image);
    const header = fs.readFileSync(image).subarray(0, CLUSTER);
    expect(header.includes(data)).toBe(true);
    expect(header.readBigUInt64BE(80)).toBe(2n ** 33n);
  });
});

test('--debug shows the trace of a refusal', () => {
  const run = cli(['--debug', directory.store('other', Buffer.from('no'))]);
  expect(run.stderr).toMatch(/^ {4}at /m);
});
