import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { image, type ImageBuilder, type ImageOptions, type LayoutOptions } from '../support/image-builder.js';
import { guestView, inspect, readGuest } from '../support/oracle.js';
import { checkImage, qemuImg, qemuIo } from '../support/qemu.js';
import { temporaryDirectory } from './temporary-directory.js';

const directory = temporaryDirectory();

/** No corruption; the number of leaks, on which the oracle and qemu-img must agree. */
function leaks(bytes: Uint8Array): number {
  const inspection = inspect(bytes);
  const check = checkImage(directory.store('image.qcow2', bytes));
  expect(inspection.corruptions).toEqual([]);
  expect(check).toEqual({ corruptions: 0, leaks: inspection.leaks, errors: 0 });
  return inspection.leaks;
}

/** What QEMU reads from the active layer or from a snapshot. */
function converted(bytes: Uint8Array, snapshotId?: string): Uint8Array {
  const source = directory.store('source.qcow2', bytes);
  const select = snapshotId === undefined ? [] : ['-l', `snapshot.id=${snapshotId}`];
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', ...select, source, directory.path('converted.raw'));
  return readFileSync(directory.path('converted.raw'));
}

function pattern(byte: number): Uint8Array {
  return new Uint8Array(512).fill(byte);
}

describe('the guest reads what was written', () => {
  test('with QEMU and with the oracle', () => {
    const bytes = image({ virtualSize: 4 * 512 })
      .write(0, pattern(1))
      .write(1, pattern(2))
      .write(3, pattern(4))
      .zero(3, { allocated: true })
      .build();
    const expected = Buffer.concat([pattern(1), pattern(2), pattern(0), pattern(0)]);
    expect(Buffer.compare(converted(bytes), expected)).toBe(0);
    expect(Buffer.compare(readGuest(guestView(bytes)), expected)).toBe(0);
  });

  test('before and after a snapshot, its return and its deletion', () => {
    const builder = image({ virtualSize: 3 * 512 })
      .write(0, pattern(1))
      .write(1, pattern(1))
      .snapshot('first')
      .write(0, pattern(2))
      .discard(1)
      .snapshot('second')
      .write(2, pattern(3));
    const first = Buffer.concat([pattern(1), pattern(1), pattern(0)]);
    const second = Buffer.concat([pattern(2), pattern(0), pattern(0)]);
    const active = Buffer.concat([pattern(2), pattern(0), pattern(3)]);
    const bytes = builder.build();
    expect(Buffer.compare(converted(bytes), active)).toBe(0);
    expect(Buffer.compare(converted(bytes, '1'), first)).toBe(0);
    expect(Buffer.compare(converted(bytes, '2'), second)).toBe(0);
    expect(Buffer.compare(readGuest(guestView(bytes), 0), first)).toBe(0);
    expect(leaks(bytes)).toBe(0);

    const reverted = builder.revert('first').deleteSnapshot('second').build();
    expect(Buffer.compare(converted(reverted), first)).toBe(0);
    expect(leaks(reverted)).toBe(0);
    expect(leaks(builder.deleteSnapshot('first').build())).toBe(0);
  });

  test('and machine state is where QEMU looks for it', () => {
    const bytes = image({ virtualSize: 70 * 512 })
      .write(1, pattern(5))
      .snapshot('running', { vmStateClusters: 3 });
    const { model } = bytes;
    const state = model.entry(model.snapshots[0]!.l1, 2 * 64 + 1)!.data!;
    state.content = pattern(0xab);
    const path = directory.store('state.qcow2', bytes.build());
    qemuImg('snapshot', '-a', 'running', path);
    qemuIo(path, ['read -b -P 0xab 512 512']);
    qemuIo(path, ['read -P 5 512 512']);
  });

  test('through a backing file', () => {
    writeFileSync(directory.path('base.raw'), Buffer.concat([pattern(7), pattern(8), pattern(9)]));
    const options = { virtualSize: 3 * 512, backingFile: 'base.raw', backingFormat: 'raw' };
    const bytes = image(options).write(1, pattern(1)).zero(2).build();
    expect(Buffer.compare(converted(bytes), Buffer.concat([pattern(7), pattern(1), pattern(0)]))).toBe(0);
  });

  test('from a file that ends within its last cluster', () => {
    const bytes = image({ virtualSize: 512 }).write(0, pattern(1)).layout({ partialTail: true }).build();
    const expected = pattern(1).fill(0, bytes.length % 512);
    expect(bytes.length % 512).toBeGreaterThan(0);
    expect(Buffer.compare(converted(bytes), expected)).toBe(0);
    expect(Buffer.compare(readGuest(guestView(bytes)), expected)).toBe(0);
  });
});

describe('an image is valid', () => {
  const busy = (options: ImageOptions): ImageBuilder => {
    const builder = image(options).writeRange(0, 20);
    if (options.version !== 2) {
      builder.zero(3).zero(4, { allocated: true });
    }
    if (options.refcountOrder !== 0) {
      builder.snapshot('a', { vmStateClusters: 1 }).write(2).write(25).discard(3);
    }
    return builder;
  };
  const formats: ImageOptions[] = [
    ...[0, 1, 2, 3, 4, 5, 6].map((refcountOrder) => ({ refcountOrder })),
    ...[9, 10, 12, 16, 21].map((clusterBits) => ({ clusterBits })),
    ...[104 as const, 112 as const].map((headerLength) => ({ headerLength })),
    { version: 2 },
    { version: 2, backingFile: 'base.raw', backingFormat: 'raw' },
    { lazyRefcounts: true },
    { featureNames: 5, extensions: [{ type: 0x77777777, data: new Uint8Array(21) }] },
    { clusterBits: 12, featureNames: 8, backingFile: 'x'.repeat(1023) },
    { l1Size: 150 },
    { virtualSize: 3 * 512 * 64 + 1024 },
    { virtualSize: 40 * 64 * 512, l1Size: 200 },
  ];
  test.each(formats)('with %j', (options) => {
    expect(leaks(busy(options).build())).toBe(0);
    expect(leaks(busy(options).layout({ shuffle: true, junk: 12, garbageTails: true }).build())).toBe(0);
  });

  const layouts: LayoutOptions[] = [
    { shuffle: true },
    { junk: 30, gap: 50, junkAtEnd: 3 },
    { extraRefcountTableClusters: 3 },
    { blocksPastEnd: 70 },
    { partialTail: true, junkAtEnd: 1 },
    { garbageTails: true, strayCopied: true },
    { staleCounts: 5 },
  ];
  test.each(layouts)('with the layout %j', (layout) => {
    expect(leaks(busy({}).layout(layout).build())).toBe(0);
  });

  test('with a virtual size of 0, with and without an L1 table', () => {
    expect(leaks(image({ virtualSize: 0 }).build())).toBe(0);
    expect(leaks(image({ virtualSize: 0, l1Size: 2 }).build())).toBe(0);
  });

  test('with guest clusters beyond the virtual size', () => {
    expect(leaks(image({ virtualSize: 1024, l1Size: 3 }).write(1).write(2).write(130).build())).toBe(0);
  });

  test('with an L2 table in which nothing is left', () => {
    const { bytes, units } = image().write(70).discard(70).buildWithMap();
    expect(units.map(({ name }) => name)).toContain('L2 active:1');
    expect(leaks(bytes)).toBe(0);
  });

  test('with two entries for one data cluster', () => {
    const bytes = image().write(0, pattern(6)).alias(0, 70).build();
    expect(leaks(bytes)).toBe(0);
    expect(inspect(bytes).liveClusters).toBe(7);
  });

  test('with extra data in a snapshot that no QEMU knows, and a name that is not UTF-8', () => {
    const name = new Uint8Array([0xff, 0xfe, 0x41]);
    expect(
      leaks(image().write(0).snapshot(name, { extraSize: 1024 }).snapshot('b', { extraSize: 16 }).build()),
    ).toBe(0);
    expect(leaks(image({ version: 2 }).write(0).snapshot(name).snapshot('b', { extraSize: 7 }).build())).toBe(
      0,
    );
  });

  test('with holes in the refcount table', () => {
    const builder = image({ refcountOrder: 6 }).writeRange(0, 20).layout({ sparseRefcountTable: true });
    const atGap = builder.layout({
      gap: 200,
      arrange: (units) => [
        ...units.filter(({ clusters }) => clusters < 200),
        ...units.filter(({ clusters }) => clusters === 200),
      ],
    });
    const { bytes, where } = atGap.layout({ leaksAtEnd: 1 }).buildWithMap();
    const table = new DataView(bytes.buffer, where('refcount table') * 512);
    const isHole = [0, 1, 2, 3].map((index) => table.getBigUint64(index * 8) === 0n);
    expect(isHole).toEqual([false, true, true, false]);
    expect(leaks(bytes)).toBe(1);
  });

  test('in the order that the test arranges', () => {
    const { units } = image()
      .writeRange(0, 3)
      .layout({ arrange: (list) => list.toReversed() })
      .buildWithMap();
    expect(units.map(({ name }) => name)).toEqual([
      'header',
      'data active:2',
      'data active:1',
      'data active:0',
      'L2 active:0',
      'L1',
      'refcount block 0',
      'refcount table',
    ]);
  });
});

describe('leaks are what was asked for', () => {
  const base = () => image({ seed: 8 }).writeRange(0, 10).snapshot('a').writeRange(5, 3);

  test('clusters without a reference', () => {
    expect(leaks(base().layout({ leaks: 4, leaksAtEnd: 3, shuffle: true }).build())).toBe(7);
  });

  test('clusters in use, the header and the refcount structures among them', () => {
    expect(leaks(base().layout({ overcounted: 6 }).build())).toBe(6);
    const all = base().layout({ overcounted: 1000, overcountRefcounts: true }).buildWithMap();
    expect(leaks(all.bytes)).toBe(all.units.length);
  });

  test('the deletion of a snapshot that a crash interrupted', () => {
    const built = base().deleteSnapshot('a', { interrupted: true }).buildWithMap();
    // Its L1 and L2 table, the 3 data clusters of its own, and 7 shared ones with a count too high.
    expect(leaks(built.bytes)).toBe(2 + 3 + 7);
  });

  test('the move of a shared data cluster that a crash interrupted', () => {
    const builder = base();
    expect(builder.halfMoveData(0)).toBe(true);
    expect(builder.halfMoveData(5)).toBe(false);
    const bytes = builder.build();
    expect(leaks(bytes)).toBe(2);
    expect(Buffer.compare(readGuest(guestView(bytes)), readGuest(guestView(base().build())))).toBe(0);
  });

  test('the move of a shared L2 table that a crash interrupted', () => {
    const builder = image().writeRange(0, 10).snapshot('a').snapshot('b');
    expect(builder.halfMoveL2(0)).toBe(true);
    expect(builder.halfMoveL2(1)).toBe(false);
    expect(leaks(builder.build())).toBe(2);
  });

  test('counts past the end, which qemu-img does not look at', () => {
    const bytes = base().layout({ staleCounts: 3, blocksPastEnd: 2 }).build();
    expect(leaks(bytes)).toBe(0);
    expect(inspect(bytes).staleRefcountsPastEnd).toBe(3);
  });
});

describe('what no image can have is refused', () => {
  test('more references than a refcount can hold', () => {
    expect(() => image({ refcountOrder: 0 }).write(0).snapshot('a').build()).toThrow(
      'more than its refcount',
    );
    const many = image({ refcountOrder: 1 }).write(0).snapshot('a').snapshot('b');
    expect(leaks(many.build())).toBe(0);
    expect(() => many.snapshot('c').build()).toThrow('more than its refcount');
  });

  test('zero clusters or other refcounts in version 2', () => {
    expect(() => image({ version: 2 }).zero(0)).toThrow('version 2');
    expect(() => image({ version: 2, refcountOrder: 3 })).toThrow('version 2');
  });

  test('a header that does not fit its cluster', () => {
    expect(leaks(image({ featureNames: 8 }).build())).toBe(0);
    expect(() => image({ featureNames: 8 }).extension(1, new Uint8Array(1)).build()).toThrow(
      'the header needs',
    );
  });

  test('a snapshot that is not there', () => {
    expect(() => image().revert('a')).toThrow('no snapshot a');
    expect(() => image().deleteSnapshot('a')).toThrow('no snapshot a');
  });

  test('an arrangement that loses something', () => {
    expect(() =>
      image()
        .write(0)
        .layout({ arrange: (units) => units.slice(1) })
        .build(),
    ).toThrow('each unit once');
  });
});
