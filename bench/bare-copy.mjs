/**
 * The same moves as a compaction, bare: `node bare-copy.mjs IMAGE MOVES.json sync|async` reads and writes each piece,
 * flushes once, cuts the file, and does nothing else. No program of this language can do less, nor may one: afterwards
 * the image is damaged.
 */
import fs from 'node:fs';
import { promisify } from 'node:util';

/** As many as the threads that carry out Node's calls. */
const WORKERS = 4;

const [image, movesPath, mode] = process.argv.slice(2);
const { data, tables, lengthAfter } = JSON.parse(fs.readFileSync(movesPath, 'utf8'));
const pieces = [...data, ...tables];
const most = pieces.reduce((length, [, , bytes]) => Math.max(length, bytes), 0);
const fd = fs.openSync(image, 'r+');
if (mode === 'sync') copyOneByOne();
else await copyInParallel();
fs.fdatasyncSync(fd);
fs.ftruncateSync(fd, lengthAfter);
fs.closeSync(fd);

function copyOneByOne() {
  const buffer = Buffer.allocUnsafe(most);
  for (const [from, to, lengthBytes] of pieces) {
    fs.readSync(fd, buffer, 0, lengthBytes, from);
    fs.writeSync(fd, buffer, 0, lengthBytes, to);
  }
}

async function copyInParallel() {
  const read = promisify(fs.read);
  const write = promisify(fs.write);
  let next = 0;
  const worker = async () => {
    const buffer = Buffer.allocUnsafe(most);
    while (next < pieces.length) {
      const [from, to, lengthBytes] = pieces[next++];
      await read(fd, buffer, 0, lengthBytes, from);
      await write(fd, buffer, 0, lengthBytes, to);
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
}
