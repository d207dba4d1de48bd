/**
 * Damaged images, any mix of features: what can be made anew from the references is mended, and the guest sees the
 * same; what cannot is refused, and not a byte changes.
 */
import { expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { repairDevice } from '../../src/compactor/repair.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { QcowError } from '../../src/errors.js';
import { lossyDamage } from '../support/damage.js';
import { inspect } from '../support/oracle.js';
import { Random } from '../support/random.js';
import { RepairJudge, anyImage, damagedImage, repairFlaw } from './repaired.js';

const SEED = Number(process.env.SEED ?? 1);
const COUNT = Number(process.env.COUNT ?? 100);
const timeout = 60_000 + 300 * COUNT;

test(`damaged images are repaired, seeds from ${SEED}, ${COUNT} of them`, { timeout }, async () => {
  const failures: string[] = [];
  let corrupt = 0;
  for (let seed = SEED; seed < SEED + COUNT; seed++) {
    const image = damagedImage(seed);
    if (inspect(image.bytes).corruptions.length > 0) corrupt++;
    const flaw = await repairFlaw(image).catch((error: unknown) => `threw ${String(error)}`);
    if (flaw !== null) failures.push(`${flaw}\n  ${image.description}`);
  }
  console.log(`repaired ${COUNT} damaged images, ${corrupt} of them corrupt, SEED=${SEED} COUNT=${COUNT}`);
  if (failures.length > 0) {
    expect.fail(`${failures.length} of ${COUNT} images:\n${failures.slice(0, 5).join('\n')}`);
  }
  expect(corrupt).toBeGreaterThan(COUNT / 2);
});

test(`leaks alone are reclaimed in place, seeds from ${SEED}, ${COUNT} of them`, { timeout }, async () => {
  let leaky = 0;
  let moved = 0;
  for (let seed = SEED; seed < SEED + COUNT; seed++) {
    const { bytes, description } = anyImage(seed, { clean: false });
    const judge = new RepairJudge(bytes);
    const before = inspect(bytes);
    const device = new MemoryDevice(bytes);
    const result = await repairDevice(device, { what: 'leaks', runtimeAsserts: true });
    const after = inspect(device.bytes());
    if (before.leaks > 0) leaky++;
    if (result.barriers > 2) moved++;
    expect(after.corruptions, description).toEqual([]);
    expect(result.leaksFound, description).toBe(before.leaks);
    expect(result.leaks, description).toBe(after.leaks);
    // What LUKS encrypts cannot move, and only `all` lowers its counts in place.
    if (!judge.isPinned) expect(after.leaks, description).toBe(0);
    expect(judge.changeOf(device.bytes()), description).toBeNull();
    await repairDevice(device);
    expect(judge.flawOf(device.bytes()), description).toBeNull();
  }
  expect(leaky).toBeGreaterThan(COUNT / 4);
  expect(moved).toBeGreaterThan(COUNT / 20);
});

test(`what would lose data is refused, seeds from ${SEED}, ${COUNT} of them`, { timeout }, async () => {
  let refused = 0;
  for (let seed = SEED; seed < SEED + COUNT; seed++) {
    const { bytes, description } = anyImage(seed);
    const damaged = lossyDamage(new Random(seed ^ 0x1055), bytes);
    if (damaged === null) continue;
    const device = new MemoryDevice(damaged.bytes);
    for (const attempt of [
      () => repairDevice(device),
      () => repairDevice(device, { what: 'leaks' }),
      () => compactDevice(device, { repair: 'all' }),
    ]) {
      const error = await attempt().catch((reason: unknown) => reason);
      const what = `${damaged.description}\n  ${description}`;
      expect(error, what).toBeInstanceOf(QcowError);
      expect(error, what).toMatchObject({ code: 'CORRUPT' });
      expect(Buffer.compare(device.bytes(), damaged.bytes), what).toBe(0);
    }
    refused++;
  }
  expect(refused).toBeGreaterThan(COUNT / 2);
});
