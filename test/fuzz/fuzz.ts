/** Runs many mutants through the engine; all that a test needs is to say how many, and made how. */
import { Random } from '../support/random.js';
import { type Mutant } from './mutations.js';
import { originalImage } from './originals.js';
import { judge } from './verdict.js';
import { Watchdog } from './watchdog.js';

/** Of each valid image so many are made: it takes longer to build than to mutate. */
export const PER_ORIGINAL = 25;

export interface Fuzzed {
  refused: number;
  compacted: number;
  /** How often it was refused in each way: the words without numbers. */
  readonly reasons: Map<string, number>;
  readonly failures: string[];
}

/** Number `index` of the mutants: the same for the same index, whichever are made besides. */
export function mutantAt(index: number, mutate: (bytes: Uint8Array, random: Random) => Mutant): Mutant {
  const original = originalImage(Math.floor(index / PER_ORIGINAL));
  return mutate(original.bytes, new Random(index));
}

export async function fuzz(
  first: number,
  count: number,
  mutate: (bytes: Uint8Array, random: Random) => Mutant,
): Promise<Fuzzed> {
  const fuzzed: Fuzzed = { refused: 0, compacted: 0, reasons: new Map(), failures: [] };
  const watchdog = new Watchdog(`fuzz image, ${mutate.name}, SEED=`);
  let original = originalImage(Math.floor(first / PER_ORIGINAL));
  for (let index = first; index < first + count; index++) {
    if (index % PER_ORIGINAL === 0) original = originalImage(index / PER_ORIGINAL);
    const { bytes, changes } = mutate(original.bytes, new Random(index));
    watchdog.next(index);
    const { outcome, message, flaw } = await judge(bytes, { secret: original.secret });
    fuzzed[outcome]++;
    if (message !== null) {
      const reason = message
        .replace(/^QcowError: /, '')
        .replace(/0x[0-9a-f]+|\d+/g, 'N')
        .split(/ \(|; /)[0]!;
      fuzzed.reasons.set(reason, (fuzzed.reasons.get(reason) ?? 0) + 1);
    }
    if (flaw !== null) {
      fuzzed.failures.push(
        `SEED=${index} COUNT=1: ${flaw}\n  ${changes.join('; ')}\n  ${original.description}`,
      );
    }
  }
  await watchdog.end();
  return fuzzed;
}
