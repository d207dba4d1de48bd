/** Recorded runs over small random images. */
import { Random } from '../support/random.js';
import { type RandomImageOverrides, randomImage } from '../support/random-image.js';
import { fullRanges } from '../support/tight-image.js';
import { type RecordedRun, recordCompaction, recordErasing } from './recorded-run.js';

export async function randomRun(seed: number): Promise<RecordedRun & { description: string }> {
  const random = new Random(seed ^ 0xc4a54);
  if (random.chance(0.05)) return tightRun(seed, random);
  const clusterBits = random.pick([9, 9, 9, 9, 9, 9, 9, 10, 11, 12]);
  const clusterBytes = 2 ** clusterBits;
  const image = randomImage(seed, {
    clusterBits,
    maxClusters: clusterBits < 11 ? 80 : 30,
    ...featuresOf(seed),
    layout: random.chance(0.6) ? { junk: random.between(5, 40), shuffle: true } : {},
  });
  if (random.chance(0.06)) {
    const options = { punch: random.chance(0.5), ...(random.chance(0.5) ? {} : { keepErased: 9 }) };
    const description = `eraseDevice ${JSON.stringify(options)}\n  ${image.description}`;
    return { ...(await recordErasing(image.bytes, options)), description };
  }
  const roundBytes = random.pick([1, 2, 4, 4, 10, 1000]) * clusterBytes;
  const maxMoves = random.pick([undefined, undefined, undefined, 1, 3]);
  const options = {
    roundBytes,
    ...(maxMoves === undefined ? {} : { maxMoves }),
    ...(random.chance(0.2) ? { keepErased: random.between(1, 12), punch: random.chance(0.5) } : {}),
    ...(random.chance(0.2) ? { dropPreallocation: true } : {}),
  };
  const description = `compactDevice ${JSON.stringify(options)}\n  ${image.description}`;
  try {
    // A third of them on a host that shares blocks.
    const host = { canShare: seed % 3 === 0 };
    return { ...(await recordCompaction(image.bytes, options, host)), description };
  } catch (error) {
    throw new Error(`seed ${seed}: ${description}`, { cause: error });
  }
}

/** Of some seeds; without a call of the generator, so that the others stay as they are. */
function featuresOf(seed: number): RandomImageOverrides {
  if (seed % 8 === 3) return { features: { encryption: 2, ...(seed % 16 === 3 && { unlockable: true }) } };
  if (seed % 16 === 5) return { version: 3, features: { dataFile: true } };
  if (seed % 8 === 6) return { version: 3, bitmaps: true };
  return {};
}

async function tightRun(seed: number, random: Random): Promise<RecordedRun & { description: string }> {
  const { bytes, description } = fullRanges(seed);
  const options = { roundBytes: random.pick([4, 1000]) * 512 };
  return {
    ...(await recordCompaction(bytes, options)),
    description: `compactDevice ${JSON.stringify(options)}\n  full ranges ${description}`,
  };
}
