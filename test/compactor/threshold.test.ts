/** A gain below the threshold is passed up without a write, and it is the gain that a dry run and a run would tell. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { planDevice } from '../../src/compactor/plan.js';
import { isBelowThreshold, requireThreshold, type Threshold } from '../../src/compactor/threshold.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice } from '../../src/device/recording-device.js';
import { QcowError } from '../../src/errors.js';
import { type Options, type RecordedRun, recordCompaction } from '../crash/recorded-run.js';
import { KINDS } from '../crash/kinds.js';
import { damage } from '../support/damage.js';
import { image } from '../support/image-builder.js';
import { secretOf } from '../support/luks.js';
import { randomImage } from '../support/random-image.js';
import { Random } from '../support/random.js';

describe('a threshold', () => {
  const file = { lengthBefore: 1000, lengthAfter: 900 };

  test.each([
    [undefined, false],
    [{ percent: 10 }, false],
    [{ percent: 10.1 }, true],
    [{ percent: 0 }, false],
    [{ percent: 100 }, true],
    [{ bytes: 100 }, false],
    [{ bytes: 101 }, true],
    [{ bytes: 0 }, false],
  ] as [Threshold | undefined, boolean][])(
    'of %j: a gain of 100 of 1000 is below it: %s',
    (threshold, below) => {
      expect(isBelowThreshold(threshold, file)).toBe(below);
    },
  );

  test.each([
    { percent: -1 },
    { percent: 101 },
    { percent: NaN },
    { bytes: -1 },
    { bytes: 1.5 },
    { bytes: NaN },
  ])('of %j is refused', (threshold) => {
    expect(() => requireThreshold(threshold)).toThrow(QcowError);
  });
});

/** What a dry run of this version and a run tell of the plan. */
const PLANNED = [
  'lengthBefore',
  'clustersToMove',
  'bytesToCopy',
  'movesBy',
  'pinnedClusters',
  'clusters',
] as const;

/** The order of writes, without their bytes. */
function writesOf({ log }: RecordedRun): string[] {
  return log.map((operation) => `${operation.kind} ${'offset' in operation ? operation.offset : ''}`);
}

/** Runs with the least threshold that passes the gain up, and with the one that is just met. */
async function expectDecision(initial: Uint8Array, options: Options, canShare: boolean, what: string) {
  const secret = secretOf(initial);
  const planned = await planDevice(new MemoryDevice(initial, { canShare }), { ...secret, ...options });
  const gain = planned.lengthBefore - planned.lengthAfter;

  const memory = new MemoryDevice(initial, { canShare });
  const recording = new RecordingDevice(memory);
  const threshold = { bytes: gain + 1 };
  const passedUp = await compactDevice(recording, { ...secret, ...options, threshold });
  if (passedUp.outcome !== 'clean') {
    expect(passedUp, what).toMatchObject({
      outcome: 'below-threshold',
      bytesLeftToReclaim: gain,
      bytesLeftToMove: planned.bytesToCopy,
      lengthAfter: planned.lengthBefore,
      tablesReleased: 0,
      preallocationReleased: 0,
      bytesWritten: 0,
      barriers: 0,
      rounds: 0,
    });
    for (const name of PLANNED) expect(passedUp[name], `${what}: ${name}`).toEqual(planned[name]);
  }
  expect(recording.log, what).toEqual([]);
  expect(Buffer.compare(memory.bytes(), initial), what).toBe(0);

  // Met: the same writes in the same order as without a threshold.
  const free = await recordCompaction(initial, options, { canShare });
  const met = await recordCompaction(initial, { ...options, threshold: { bytes: gain } }, { canShare });
  expect(writesOf(met), what).toEqual(writesOf(free));
  expect(Buffer.compare(met.final, free.final), what).toBe(0);
  expect(met.result.outcome, what).toBe(free.result.outcome);
  return passedUp.outcome;
}

describe('of the kinds of images that crashes are tried on', () => {
  const kinds = KINDS.filter(({ erase, freeBytes }) => erase === undefined && freeBytes === undefined);
  test.each(kinds)('$name', async ({ name, image: builder, options = {} }) => {
    // A dry run knows nothing of how much may be in two places.
    const { roundBytes: _, ...others } = options;
    for (const canShare of [false, true]) await expectDecision(builder.build(), others, canShare, name);
  });
});

const SEED = Number(process.env.SEED ?? 1);
const COUNT = Number(process.env.COUNT ?? 120);

test(
  `of random images, preallocation and pools included, seeds from ${SEED}`,
  { timeout: 60_000 + 300 * COUNT },
  async () => {
    let passedUp = 0;
    for (let seed = SEED; seed < SEED + COUNT; seed++) {
      const random = new Random(seed ^ 0x7e5);
      const { bytes, description } = randomImage(seed, { maxClusters: 100 });
      const options = {
        ...(random.chance(0.4) ? { dropPreallocation: true } : {}),
        ...(random.chance(0.2) ? { keepErased: random.between(1, 9) } : {}),
      };
      const outcome = await expectDecision(bytes, options, seed % 3 === 0, `seed ${seed}: ${description}`);
      if (outcome === 'below-threshold') passedUp++;
    }
    expect(passedUp).toBeGreaterThan(COUNT / 2);
  },
);

test('what has to be mended is mended first, and then the gain is weighed', async () => {
  const builder = image({ virtualSize: 64 << 10, seed: 7 })
    .writeRange(0, 30)
    .layout({ junk: 10, shuffle: true });
  const initial = damage(new Random(1), builder.build(), ['lowerCounts', 'dirty']).bytes;
  const run = async (threshold: Threshold) => {
    const device = new MemoryDevice(initial);
    return { device, result: await compactDevice(device, { repair: 'all', threshold }) };
  };
  const { device, result } = await run({ percent: 90 });
  expect(result).toMatchObject({ outcome: 'below-threshold', repaired: { marksCleared: ['dirty'] } });
  const planned = await planDevice(device);
  expect(result.bytesLeftToReclaim).toBe(planned.lengthBefore - planned.lengthAfter);
  expect((await run({ percent: 1 })).result).toMatchObject({
    outcome: 'compacted',
    lengthAfter: planned.lengthAfter,
    repaired: { marksCleared: ['dirty'] },
  });
});

test('leaks that are to be repaired are reason enough; else they are counted', async () => {
  const initial = image().writeRange(0, 4).layout({ leaks: 2 }).build();
  const threshold = { percent: 100 };
  expect((await planDevice(new MemoryDevice(initial))).clusters.leaked).toBe(2);
  const passedUp = await compactDevice(new MemoryDevice(initial), { threshold });
  expect(passedUp).toMatchObject({
    outcome: 'below-threshold',
    leaksLeft: 2,
    leaksReclaimed: 0,
    notices: [],
  });
  for (const repair of ['leaks', 'all'] as const) {
    const device = new MemoryDevice(initial);
    const result = await compactDevice(device, { threshold, repair });
    expect(result, repair).toMatchObject({ outcome: 'compacted', leaksLeft: 0, leaksReclaimed: 2 });
    expect((await planDevice(device)).clusters.leaked, repair).toBe(0);
  }
});
