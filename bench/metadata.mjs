/**
 * Where the metadata of a qcow2 image lies, and a plain read of it: the least that any walk must read.
 * Run as a program it times that read: `node metadata.mjs IMAGE STRETCHES.json` prints seconds.
 */
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';
import { Tables } from './tables.mjs';

const MOST_AT_ONCE = 2 ** 20;

/**
 * Header, L1 tables, L2 tables, refcount table and blocks, snapshot table, as ascending `[offset, length]`; neighbours
 * are joined.
 */
export function metadataStretches(image) {
  return Tables.with(image, (tables) => {
    const { clusterBytes } = tables;
    const clusters = new Set([0]);
    const addStretch = (offset, lengthBytes) => {
      for (let at = 0; at < lengthBytes; at += clusterBytes) clusters.add((offset + at) / clusterBytes);
    };
    const addTable = (table) => {
      addStretch(table.offset, table.entries * 8);
      for (const target of tables.entries(table)) if (target !== 0) clusters.add(target / clusterBytes);
    };
    addTable(tables.l1);
    addTable(tables.refcountTable);
    const { l1Tables, lengthBytes } = tables.snapshots();
    for (const table of l1Tables) addTable(table);
    addStretch(tables.snapshotTable, lengthBytes);
    return join(
      [...clusters].sort((a, b) => a - b),
      clusterBytes,
    );
  });
}

export function metadataBytes(image) {
  return metadataStretches(image).reduce((sum, [, length]) => sum + length, 0);
}

function join(clusters, clusterBytes) {
  const stretches = [];
  for (const cluster of clusters) {
    const last = stretches.at(-1);
    const offset = cluster * clusterBytes;
    if (last !== undefined && last[0] + last[1] === offset && last[1] < MOST_AT_ONCE) last[1] += clusterBytes;
    else stretches.push([offset, clusterBytes]);
  }
  return stretches;
}

/** Seconds for one read of each stretch, in order, one at a time. */
function timePlainRead(image, stretches) {
  const buffer = Buffer.alloc(Math.max(...stretches.map(([, length]) => length)));
  const startedAt = process.hrtime.bigint();
  const fd = fs.openSync(image, 'r');
  for (const [offset, length] of stretches) fs.readSync(fd, buffer, 0, length, offset);
  fs.closeSync(fd);
  return Number(process.hrtime.bigint() - startedAt) / 1e9;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [image, stretchesPath] = process.argv.slice(2);
  const stretches = JSON.parse(fs.readFileSync(stretchesPath, 'utf8'));
  process.stdout.write(`${timePlainRead(image, stretches)}\n`);
}
