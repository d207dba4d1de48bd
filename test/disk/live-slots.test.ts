/** Where the slots are found that name what moves: on disk, and in tables that are ahead of it. */
import { expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { collectLiveSlots } from '../../src/disk/background/live-slots.js';
import { geometryOf } from '../../src/disk/geometry.js';
import { Tables } from '../../src/disk/tables.js';
import { openImage } from '../../src/image/image.js';
import { walk } from '../../src/image/walk.js';
import { RangeLocks } from '../../src/recycler/locks.js';
import { Volume } from '../../src/recycler/volume.js';
import { image } from '../support/image-builder.js';

test('an entry that is in memory only is found, and one that is in both once', async () => {
  const { bytes, where } = image({ virtualSize: 64 * 512 })
    .write(0)
    .write(1)
    .layout({ junk: 1 })
    .buildWithMap();
  const opened = await openImage(new MemoryDevice(bytes));
  const volume = new Volume(opened, (await walk(opened)).clusters);
  const tables = await Tables.open(
    opened.device,
    new RangeLocks(),
    geometryOf(opened.header),
    opened.header,
    1 << 20,
  );
  const table = (await tables.load(0))!;
  const added = where('junk');
  table.set(5, 0x8000_0000, added * 512);
  tables.changed(table);
  const sources = Uint32Array.from(
    [where('data active:0'), where('data active:1'), added].sort((a, b) => a - b),
  );
  const [slots] = await collectLiveSlots(volume, tables, sources, new Uint32Array(3), 1);
  const found = [...slots!.offsets].map((offset, i) => [
    offset - table.cluster * 512,
    sources[slots!.moves[i]!],
  ]);
  expect(found).toEqual([
    [0, where('data active:0')],
    [8, where('data active:1')],
    [40, added],
  ]);
});
