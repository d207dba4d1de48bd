/** Damaged extended L2 entries are found (hazards, section 5), sound ones are not. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { opened, withWord } from './opened.js';

const CLUSTER = 16384;
const built = image({ clusterBits: 14, extendedL2: true })
  .write(0)
  .writeSubclusters(1, { zero: 0, allocated: 0 })
  .writeSubclusters(2, { zero: 0xff00_0000, allocated: 0x00ff_00ff })
  .zero(3)
  .buildWithMap();
const entry = (guest: number) => built.where('L2 active:0') * CLUSTER + guest * 16;

async function findings(bytes: Uint8Array) {
  const { corruptions, words } = (await opened(bytes)).walked.findings;
  expect(inspect(bytes).corruptions.length > 0).toBe(corruptions > 0);
  return { corruptions, words: words.join('; ') };
}

test('sound entries, a preallocated cluster among them', async () => {
  expect(await findings(built.bytes)).toEqual({ corruptions: 0, words: '' });
});

describe('an entry is damaged where', () => {
  test.each([
    ['a subcluster is allocated and zero', 2, 8, (word: bigint) => word | (1n << 63n) | (1n << 31n)],
    ['bit 0 of its first word is set', 0, 0, (word: bigint) => word | 1n],
    ['another reserved bit is set', 0, 0, (word: bigint) => word | 2n],
    ['subclusters are allocated without a cluster', 3, 8, () => 1n],
    ['subclusters are allocated in an entry of zeroes', 9, 8, () => 1n << 31n],
  ])('%s', async (_, guest, at, change) => {
    const bytes = withWord(built.bytes, entry(guest) + at, change);
    expect((await findings(bytes)).corruptions).toBe(1);
    const device = new MemoryDevice(bytes);
    await expect(compactDevice(device)).rejects.toMatchObject({ code: 'CORRUPT' });
    expect(Buffer.compare(device.bytes(), bytes)).toBe(0);
  });
});
