/** Small images in which it can be counted by hand what a compaction must do. */
import { type BuiltUnit, image, type ImageBuilder, type ImageOptions } from '../support/image-builder.js';

export const CLUSTER = 4096;
/** A stretch of neighbours, of which live and unused ones take turns. */
export const TURN = 16;
/** Of compressed clusters: two fit in a cluster. */
export const EXTENT = 2048;

/** One refcount block describes all of it, and the first table's entries fill one cluster. */
function disk(options: ImageOptions = {}): ImageBuilder {
  return image({ clusterBits: 12, virtualSize: 2 << 20, ...options });
}

/** All tables come first, then guest data and unused clusters in turns. */
function inTurns(live: number, unused: number): (units: readonly BuiltUnit[]) => readonly BuiltUnit[] {
  return (units) => {
    const isData = ({ name }: BuiltUnit) => name.startsWith('data');
    const data = units.filter(isData);
    const junk = units.filter(({ name }) => name === 'junk');
    const arranged = units.filter((unit) => !isData(unit) && unit.name !== 'junk');
    while (data.length + junk.length > 0) arranged.push(...data.splice(0, live), ...junk.splice(0, unused));
    return arranged;
  };
}

/** 480 clusters of data and as many unused ones: half of the data lie beyond the new end. */
export function half(): Uint8Array {
  return disk()
    .writeRange(0, 480)
    .layout({ junk: 480, arrange: inTurns(TURN, TURN) })
    .build();
}

/** 448 clusters of data, 32 unused ones, 32 of data. */
export function tail(): Uint8Array {
  return disk()
    .writeRange(0, 480)
    .layout({ junk: 32, arrange: inTurns(448, 32) })
    .build();
}

export function clean(): Uint8Array {
  return disk().writeRange(0, 480).build();
}

/** Two snapshots with tables of their own; half of the 480 clusters of data lie beyond the new end. */
export function snapshots(): Uint8Array {
  return disk()
    .writeRange(0, 320)
    .snapshot('a')
    .writeRange(0, 80)
    .snapshot('b')
    .writeRange(80, 80)
    .layout({ junk: 480, arrange: inTurns(TURN, TURN) })
    .build();
}

/** 128 compressed clusters, two in each host cluster; of each of the first 32 pairs the second one is discarded. */
export function compressed(): Uint8Array {
  const builder = disk({ compressionType: 'zstd', headerLength: 112 });
  // With zstd content counts as compressed already: the same bytes with every version of zlib.
  const content = Uint8Array.from({ length: EXTENT }, (_, i) => i);
  for (let guest = 0; guest < 128; guest++) builder.compress(guest, content);
  const { bytes, where } = builder.buildWithMap();
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (let guest = 1; guest < 64; guest += 2) {
    view.setBigUint64(where('L2 active:0') * CLUSTER + 8 * guest, 0n);
    const host = where('compressed 0') + (guest - 1) / 2;
    view.setUint16(where('refcount block 0') * CLUSTER + 2 * host, 1);
  }
  return bytes;
}
