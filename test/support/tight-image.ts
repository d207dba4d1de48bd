/** Images with hardly a hole, whose tables and refcount blocks stand in each other's way. */
import { image } from './image-builder.js';
import { inspect, minimalClusterCount } from './oracle.js';
import { Random } from './random.js';

export interface Tight {
  bytes: Uint8Array;
  description: string;
  /** Clusters above the least that may remain. */
  excess: number;
}

/** 64-bit counts in 512-byte clusters: a refcount block describes 64 clusters, a cluster of the table 4096. */
const format = { clusterBits: 9, refcountOrder: 6 } as const;

/** As many clusters as a whole number of refcount blocks describes, or a few less, and most of them live. */
export function fullRanges(seed: number): Tight {
  const random = new Random(seed);
  const l1Size = random.pick([10, 70, 140, 300, random.between(65, 500)]);
  const layout = {
    shuffle: random.chance(0.85),
    junk: random.pick([0, 0, 0, 1, 2, random.int(16)]),
    junkAtEnd: random.pick([0, 0, 0, random.int(4)]),
    gap: random.pick([0, 0, 0, 0, random.int(100)]),
    overcounted: random.pick([0, 0, random.int(50)]),
    extraRefcountTableClusters: random.pick([0, 0, 0, 1, 3]),
    blocksPastEnd: random.pick([0, 0, 0, 2]),
  };
  const build = (padding: number) => {
    const history = new Random(seed + 1e6);
    const builder = image({ ...format, l1Size, seed }).writeRange(0, padding);
    for (let i = history.int(6); i > 0; i--) {
      builder.snapshot(`s${i}`);
      if (history.chance(0.4)) builder.write(64 * history.between(1, l1Size - 1));
      if (history.chance(0.1)) builder.writeRange(64, history.int(30));
      if (history.chance(0.3)) builder.deleteSnapshot(`s${i}`, { interrupted: history.chance(0.7) });
    }
    return builder.layout(layout).build();
  };
  let bytes = build(0);
  const wanted = random.pick([1, 2, 3]) * 64 - random.pick([0, 0, 1, 2, random.int(8)]);
  for (let padding = 1; padding < 64 && inspect(bytes).clusterCount < wanted; padding++)
    bytes = build(padding);
  return { bytes, description: JSON.stringify({ seed, l1Size, ...layout }), excess: 0 };
}

/** The refcount table needs one cluster less, but what lies in the last ranges hardly fits into the others. */
export function shrinkingTable(seed: number): Tight {
  const random = new Random(seed);
  const live = 4096 - random.between(-4, 30);
  const extraRefcountTableClusters = random.pick([0, 1, 2]);
  const layout = {
    shuffle: random.chance(0.5),
    junk: random.int(12),
    junkAtEnd: random.pick([0, 0, random.int(4)]),
    extraRefcountTableClusters,
    blocksPastEnd: random.pick([0, 0, 1, 2, 64]),
    overcounted: random.pick([0, 0, 3]),
  };
  const build = (padding: number) =>
    image({ ...format, l1Size: 70, seed })
      .writeRange(0, padding)
      .layout(layout)
      .build();
  const bytes = build(3800 + live - minimalClusterCount(build(3800)));
  // The table's own tail can be what does not fit: it goes only when the last ranges are empty.
  const excess = minimalClusterCount(bytes) > 4096 ? 0 : extraRefcountTableClusters + 4;
  return { bytes, description: JSON.stringify({ seed, live, ...layout }), excess };
}

/** L1 tables longer than what one refcount block describes, more or less in each other's way. */
export function longTables(seed: number): Tight {
  const random = new Random(seed);
  const l1Size = random.pick([4096, 4160, 5000, 6000, 8192, 9000, 200, 1000]);
  const builder = image({ ...format, l1Size, seed }).writeRange(0, random.int(120));
  for (let i = random.int(5); i > 0; i--) {
    builder.snapshot(`s${i}`);
    if (random.chance(0.6)) builder.write(64 * random.between(1, l1Size - 1));
    if (random.chance(0.3)) builder.writeRange(64, random.int(30));
    if (random.chance(0.4)) builder.deleteSnapshot(`s${i}`, { interrupted: random.chance(0.3) });
  }
  const layout = {
    shuffle: random.chance(0.85),
    junk: random.pick([0, 0, 1, 2, 5, random.int(100), random.int(300)]),
    junkAtEnd: random.pick([0, 0, random.int(4)]),
    overcounted: random.pick([0, 0, random.int(50)]),
    extraRefcountTableClusters: random.pick([0, 0, 0, 1, 3]),
    blocksPastEnd: random.pick([0, 0, 2]),
  };
  const description = JSON.stringify({ seed, l1Size, ...layout });
  return { bytes: builder.layout(layout).build(), description, excess: 0 };
}
