/** What a compaction moved, told from the tables of the image before it and after it. */
import fs from 'node:fs';
import { createHash } from 'node:crypto';
import { Tables } from './tables.mjs';

/** No more is read or written at once, by the tool as by the bare loop. */
const PIECE_BYTES = 2 ** 20;

/**
 * `{ data, tables, lengthAfter }`: `[from, to, lengthBytes]` each, ascending, neighbours that move to neighbours joined
 * up to 1 MiB. For images without snapshots and compressed clusters.
 */
export function movesBetween(before, after) {
  return Tables.with(before, (old) =>
    Tables.with(after, (now) => {
      const data = [];
      const tables = [
        ...tablePairs(old.l1, now.l1, old),
        ...tablePairs(old.refcountTable, now.refcountTable, old),
      ];
      const oldL2 = old.entries(old.l1);
      const nowL2 = now.entries(now.l1);
      tables.push(...pairs(oldL2, nowL2));
      tables.push(...pairs(old.entries(old.refcountTable), now.entries(now.refcountTable)));
      for (let i = 0; i < oldL2.length; i++) {
        if (oldL2[i] === 0 || nowL2[i] === 0) continue;
        data.push(...pairs(old.l2Entries(oldL2[i]), now.l2Entries(nowL2[i])));
      }
      const { clusterBytes } = old;
      return {
        data: joined(data, clusterBytes),
        tables: joined(tables, clusterBytes),
        lengthAfter: fs.statSync(after).size,
      };
    }),
  );
}

/** Places that differ, of what both have. */
function pairs(before, after) {
  const moved = [];
  const count = Math.min(before.length, after.length);
  for (let i = 0; i < count; i++) {
    if (before[i] !== 0 && after[i] !== 0 && before[i] !== after[i]) moved.push([before[i], after[i]]);
  }
  return moved;
}

function tablePairs(before, after, { clusterBytes }) {
  if (before.offset === after.offset) return [];
  const lengthBytes = Math.min(before.entries, after.entries) * 8;
  const clusters = Math.ceil(lengthBytes / clusterBytes);
  return Array.from({ length: clusters }, (_, i) => [
    before.offset + i * clusterBytes,
    after.offset + i * clusterBytes,
  ]);
}

function joined(moves, clusterBytes) {
  const extents = [];
  for (const [from, to] of moves.sort(([a], [b]) => a - b)) {
    const last = extents.at(-1);
    const isNext = last !== undefined && last[0] + last[2] === from && last[1] + last[2] === to;
    if (isNext && last[2] + clusterBytes <= PIECE_BYTES) last[2] += clusterBytes;
    else extents.push([from, to, clusterBytes]);
  }
  return extents;
}

export function lengthOf(extents) {
  return extents.reduce((sum, [, , lengthBytes]) => sum + lengthBytes, 0);
}

/** Of what lies where the extents lead. */
export function digestOfDestinations(image, extents) {
  const hash = createHash('sha1');
  const buffer = Buffer.alloc(PIECE_BYTES);
  const fd = fs.openSync(image, 'r');
  for (const [, to, lengthBytes] of extents) {
    fs.readSync(fd, buffer, 0, lengthBytes, to);
    hash.update(buffer.subarray(0, lengthBytes));
  }
  fs.closeSync(fd);
  return hash.digest('hex');
}
