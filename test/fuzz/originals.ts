/** The valid images that the fuzzer begins with: small, and of every kind that the builder makes. */
import { secretOf } from '../support/luks.js';
import { randomImage, type RandomImageOverrides } from '../support/random-image.js';
import { Random } from '../support/random.js';

const FEATURES: readonly RandomImageOverrides[] = [
  {},
  {},
  {},
  {},
  { compressed: true },
  { version: 3, bitmaps: true },
  { version: 3, bitmaps: true },
  { version: 3, features: { encryption: 2 } },
  { version: 3, features: { encryption: 2, unlockable: true } },
  { features: { encryption: 1 } },
  { version: 3, features: { dataFile: true } },
  { version: 3, clusterBits: 14, features: { extendedL2: true } },
  { version: 3, clusterBits: 14, features: { extendedL2: true }, compressed: true },
];

export interface Original {
  bytes: Uint8Array;
  description: string;
  /** What opens it, where it is encrypted with LUKS and somebody knows. */
  secret: string | undefined;
}

/** The same for the same seed. Clusters are small, that thousands of images take little time. */
export function originalImage(seed: number): Original {
  const random = new Random(seed ^ 0x0f22);
  const features = random.pick(FEATURES);
  const clusterBits = features.clusterBits ?? random.pick([9, 9, 9, 10, 12]);
  const maxClusters = clusterBits === 14 ? 20 : random.pick([40, 80, 120]);
  const { bytes, description } = randomImage(seed, { ...features, clusterBits, maxClusters });
  return { bytes, description, secret: secretOf(bytes).secret };
}
