/** What a volume knows of its tables follows them when they move, at the cost of the move. */
import { expect, test } from 'vitest';
import { Kind } from '../../src/image/host-clusters.js';
import { Volume } from '../../src/recycler/volume.js';
import { opened } from '../image/opened.js';
import { image } from '../support/image-builder.js';

async function withSnapshots(count: number): Promise<{ volume: Volume; looks: () => number }> {
  const builder = image({ clusterBits: 9 }).write(0);
  for (let i = 0; i < count; i++) builder.snapshot(`s${i}`);
  const { image: found, walked } = await opened(builder.build());
  let looks = 0;
  const snapshots = new Proxy(found.snapshots, {
    get(target, name): unknown {
      if (name === Symbol.iterator) looks++;
      return Reflect.get(target, name);
    },
  });
  return { volume: new Volume({ ...found, snapshots }, walked.clusters), looks: () => looks };
}

test('an L1 table that moves takes its snapshot along, again and again, and no other', async () => {
  const { volume } = await withSnapshots(3);
  const [first, second, third] = volume.image.snapshots.map(({ l1Offset }) => l1Offset / 512);
  const places = () => volume.image.snapshots.map(({ l1Offset }) => l1Offset / 512);
  volume.tableMoved(Kind.l1Table, second!, 900);
  expect(places()).toEqual([first, 900, third]);
  volume.tableMoved(Kind.l1Table, 900, 901);
  volume.tableMoved(Kind.l1Table, first!, second!);
  volume.tableMoved(Kind.l1Table, second!, 902);
  expect(places()).toEqual([902, 901, third]);
  expect(volume.image.header.l1Offset / 512).not.toBe(902);
});

test('bitmaps follow their directory and their tables', async () => {
  const built = image({ clusterBits: 9 }).bitmap('a').bitmap('b').bitmap('c').buildWithMap();
  const { image: found, walked } = await opened(built.bytes);
  const volume = new Volume(found, walked.clusters);
  const places = () => found.bitmaps?.entries.map(({ tableOffset }) => tableOffset / 512);
  const [a, b, c] = ['a', 'b', 'c'].map((name) => built.where(`bitmap table ${name}`));
  volume.tableMoved(Kind.bitmapTable, b!, 900);
  volume.tableMoved(Kind.bitmapTable, 900, 901);
  volume.tableMoved(Kind.bitmapTable, a!, b!);
  volume.tableMoved(Kind.bitmapData, c!, 902);
  expect(places()).toEqual([b, 901, c]);
  volume.tableMoved(Kind.bitmapDirectory, built.where('bitmap directory'), 950);
  expect(found.bitmaps?.directory.offset).toBe(950 * 512);
  expect(volume.runs().filter(({ kind }) => kind === Kind.bitmapTable)).toHaveLength(3);
});

test('moving every L1 table looks through the snapshots once, not once for each', async () => {
  const { volume, looks } = await withSnapshots(20);
  const tables = volume.image.snapshots.map(({ l1Offset }) => l1Offset / 512);
  const before = looks();
  for (const [i, table] of tables.entries()) volume.tableMoved(Kind.l1Table, table, 1000 + i);
  expect(looks() - before).toBe(1);
  expect(volume.image.snapshots.map(({ l1Offset }) => l1Offset / 512)).toEqual(
    tables.map((_, i) => 1000 + i),
  );
});
