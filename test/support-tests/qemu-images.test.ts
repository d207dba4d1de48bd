import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { image } from '../support/image-builder.js';
import { guestView, inspect, readGuest } from '../support/oracle.js';
import { checkBuiltImage, checkImage, qemuImg, qemuIo } from '../support/qemu.js';
import { temporaryDirectory } from './temporary-directory.js';

const directory = temporaryDirectory();
const path = directory.path('made.qcow2');

/** What QEMU made, the oracle finds valid, and reads as QEMU does. */
function judge(layers: readonly (string | null)[] = [null]): void {
  const bytes = readFileSync(path);
  const inspection = inspect(bytes);
  const check = checkImage(path);
  expect(inspection.corruptions).toEqual([]);
  expect(check).toEqual({ corruptions: 0, leaks: inspection.leaks, errors: 0 });
  const view = guestView(bytes);
  for (const id of layers) {
    const select = id === null ? [] : ['-l', `snapshot.id=${id}`];
    qemuImg('convert', '-f', 'qcow2', '-O', 'raw', ...select, path, directory.path('made.raw'));
    const layer = view.layout.snapshots.findIndex((snapshot) => snapshot.id === id);
    expect(Buffer.compare(readFileSync(directory.path('made.raw')), readGuest(view, layer))).toBe(0);
  }
}

function create(options: string, size = '3M'): void {
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, path, size);
}

const SIZES = [512, 1024, 4096, 65536, 2097152];

describe('images made by QEMU inspect clean', () => {
  for (const clusterSize of SIZES) {
    const widths = clusterSize === 512 || clusterSize === 65536 ? [1, 2, 4, 8, 16, 32, 64] : [1, 16, 64];
    test.each(widths)(`clusters of ${clusterSize}, refcounts of %i bits`, (bits) => {
      create(`cluster_size=${clusterSize},refcount_bits=${bits}`);
      judge();
      qemuIo(path, [
        'write -P 1 0 200k',
        'write -P 2 1M 300k',
        'write -z 100k 64k',
        'discard 1M 128k',
        'write -z -u 40k 20k',
      ]);
      judge();
      if (bits > 1) {
        qemuImg('snapshot', '-c', 'a', path);
        qemuIo(path, ['write -P 3 64k 300k', 'write -P 4 2M 10k']);
        qemuImg('snapshot', '-c', 'b', path);
        qemuIo(path, ['discard 0 64k', 'write -P 5 2M 64k']);
        judge([null, '1', '2']);
        qemuImg('snapshot', '-d', 'a', path);
        judge([null, '2']);
      }
    });
  }

  test.each(SIZES)('compat=0.10, clusters of %i', (clusterSize) => {
    create(`cluster_size=${clusterSize},compat=0.10`);
    qemuIo(path, ['write -P 1 0 200k', 'write -P 2 1M 300k']);
    qemuImg('snapshot', '-c', 'a', path);
    qemuIo(path, ['write -P 3 64k 300k', 'discard 1M 100k']);
    judge([null, '1']);
  });

  test.each(['metadata', 'falloc', 'full'])('preallocation=%s', (preallocation) => {
    create(`cluster_size=4096,preallocation=${preallocation}`);
    judge();
  });

  test('grown, so that the L1 table has moved', () => {
    create('cluster_size=512', '1M');
    qemuIo(path, ['write -P 1 0 1M']);
    qemuImg('resize', '-q', path, '20M');
    qemuIo(path, ['write -P 2 19M 1M']);
    judge();
  });

  test('shrunk', () => {
    create('cluster_size=4096', '8M');
    qemuIo(path, ['write -P 1 0 8M']);
    qemuImg('resize', '-q', '--shrink', path, '1M');
    judge();
  });

  test('with machine state', () => {
    create('cluster_size=1024', '1M');
    qemuIo(path, ['write -P 1 0 100k', 'write -b -P 2 0 50k']);
    qemuImg('snapshot', '-c', 'state', path);
    judge([null, '1']);
  });

  for (const bits of [1, 2, 16]) {
    test.each(SIZES)(`with compressed clusters of %i, refcounts of ${bits} bits`, (clusterSize) => {
      create(`cluster_size=${clusterSize},refcount_bits=${bits}`, '8M');
      const clusters = (first: number, count: number) => `${first * clusterSize} ${count * clusterSize}`;
      const compress = (pattern: number, first: number, count: number) =>
        Array.from(
          { length: count },
          (_, index) => `write -c -P ${pattern + index} ${clusters(first + index, 1)}`,
        );
      qemuIo(path, compress(1, 0, 4));
      judge();
      qemuIo(path, [`write -P 20 ${clusters(1, 1)}`, `discard ${clusters(2, 1)}`]);
      judge();
      if (bits > 1) {
        qemuImg('snapshot', '-c', 'a', path);
        qemuIo(path, [`write -P 30 ${clusters(0, 1)}`, ...compress(40, 2, 1)]);
        judge([null, '1']);
        qemuImg('snapshot', '-d', 'a', path);
        judge();
      }
    });
  }

  test('with a whole disk compressed', () => {
    create('cluster_size=4096', '4M');
    qemuIo(path, ['write -P 1 0 2M', 'write -P 2 1M 700k']);
    const raw = directory.path('whole.raw');
    qemuImg('convert', '-O', 'raw', path, raw);
    for (const size of SIZES) {
      qemuImg('convert', '-c', '-O', 'qcow2', '-o', `cluster_size=${size}`, raw, path);
      judge();
    }
  });
});

test('an image left dirty, whose refcounts mean nothing, is not called valid', () => {
  create('cluster_size=4096,lazy_refcounts=on', '4M');
  expect(() => qemuIo(path, ['write -P 1 0 64k', 'flush', 'abort'])).toThrow();
  expect(inspect(readFileSync(path)).corruptions.join('\n')).toContain('incompatible features 0x1');
});

test.each([
  ['legacy AES', { encryption: 1 }],
  ['LUKS', { encryption: 2 }],
  ['an external data file', { dataFile: true }],
  ['extended L2 entries', { extendedL2: true, clusterBits: 14 }],
] as const)('qemu-img checks what the builder makes with %s', (_, options) => {
  const bytes = image(options).writeRange(0, 20).zero(3).layout({ junk: 9, shuffle: true }).build();
  const leaks = 'encryption' in options && options.encryption === 2 ? 3 : 0;
  const found = checkBuiltImage(directory.path('built.qcow2'), bytes);
  expect(found).toEqual({ corruptions: 0, leaks, errors: 0 });
});
