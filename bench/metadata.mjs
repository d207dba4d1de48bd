/**
 * Where the metadata of a qcow2 image lies, and a plain read of it: the least that any walk must read.
 * Run as a program it times that read: `node metadata.mjs IMAGE STRETCHES.json` prints seconds.
 */
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const OFFSET_MASK = 0x00fffffffffffe00n;

/** Header, L1 table, L2 tables, refcount table and blocks, as ascending `[offset, length]`; neighbours joined. */
export function metadataStretches(image) {
  const fd = fs.openSync(image, 'r');
  try {
    const header = readAt(fd, 0, 104);
    const clusterBytes = 2 ** header.readUInt32BE(20);
    const l1Entries = header.readUInt32BE(36);
    const l1Offset = Number(header.readBigUInt64BE(40));
    const tableOffset = Number(header.readBigUInt64BE(48));
    const tableClusters = header.readUInt32BE(56);
    const clusters = new Set([0]);
    const addTable = (offset, lengthBytes) => {
      for (let at = 0; at < lengthBytes; at += clusterBytes) clusters.add((offset + at) / clusterBytes);
      const table = readAt(fd, offset, lengthBytes);
      for (let at = 0; at + 8 <= lengthBytes; at += 8) {
        const target = Number(table.readBigUInt64BE(at) & OFFSET_MASK);
        if (target !== 0) clusters.add(target / clusterBytes);
      }
    };
    addTable(l1Offset, l1Entries * 8);
    addTable(tableOffset, tableClusters * clusterBytes);
    return join(
      [...clusters].sort((a, b) => a - b),
      clusterBytes,
    );
  } finally {
    fs.closeSync(fd);
  }
}

function readAt(fd, offset, lengthBytes) {
  const bytes = Buffer.alloc(lengthBytes);
  fs.readSync(fd, bytes, 0, lengthBytes, offset);
  return bytes;
}

function join(clusters, clusterBytes) {
  const stretches = [];
  for (const cluster of clusters) {
    const last = stretches.at(-1);
    const offset = cluster * clusterBytes;
    if (last !== undefined && last[0] + last[1] === offset && last[1] < 2 ** 20) last[1] += clusterBytes;
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
