/**
 * Writes to an image until it is killed, and says on stdout what it is about to write and what is durable:
 * `node killed-writer.mjs LIBRARY IMAGE SEED FIRST_VERSION`. Each sector of a block holds its number and its version.
 */
const [library, path, seed, firstVersion] = process.argv.slice(2);
const { Qcow2Disk } = await import(library);

const BLOCK = 4096;
let state = Number(seed);

/** A number below `limit`, the same for the same seed. */
function random(limit) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
}

const disk = await Qcow2Disk.open(path);
const blocks = disk.sizeBytes / BLOCK;
for (let version = Number(firstVersion); ; version++) {
  const batch = new Set(Array.from({ length: 12 }, () => random(blocks)));
  const changes = [...batch].map((block) => ({ block, discards: random(4) === 0 }));
  process.stdout.write(
    changes.map(({ block, discards }) => `${discards ? 'D' : 'W'} ${block} ${version}\n`).join(''),
  );
  await Promise.all(
    changes.map(({ block, discards }) => {
      if (discards) return disk.discard(block * BLOCK, BLOCK);
      const words = new Uint32Array(BLOCK / 4);
      for (let i = 0; i < words.length; i += 2) words.set([block, version], i);
      return disk.write(new Uint8Array(words.buffer), block * BLOCK);
    }),
  );
  if (random(3) > 0) continue;
  await disk.flush();
  process.stdout.write('F\n');
}
