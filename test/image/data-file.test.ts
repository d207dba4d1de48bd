/** Images with an external data file: what their L2 entries name is in that file, and damage is still found. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { visitReferences } from '../../src/image/references.js';
import { image } from '../support/image-builder.js';
import { inspect } from '../support/oracle.js';
import { opened, withWord } from './opened.js';

const built = image({ dataFile: true }).writeRange(0, 3).zero(5, { allocated: true }).buildWithMap();
const entry = (guest: number) => built.where('L2 active:0') * 512 + guest * 8;

test('its clusters are no references to this one', async () => {
  const { walked, image: found } = await opened(built.bytes);
  expect(walked.findings).toMatchObject({ corruptions: 0, leaks: 0 });
  // Header, refcount table, refcount block, L1 table, L2 table.
  expect(walked.live).toBe(5);
  expect(inspect(built.bytes)).toMatchObject({ corruptions: [], liveClusters: 5 });
  const slots: number[] = [];
  await visitReferences(found, walked.clusters, { reference: (slot) => void slots.push(slot) });
  expect(slots.some((slot) => slot >= entry(0) && slot < entry(64))).toBe(false);
});

describe('an entry is damaged where', () => {
  const COPIED = 1n << 63n;
  test.each([
    ['COPIED is clear', 1, (word: bigint) => word & ~COPIED],
    ['its offset is not aligned', 1, () => COPIED | 0x20n],
    ['it is compressed', 1, () => (1n << 62n) | 0x1000n],
    ['a reserved bit is set', 0, (word: bigint) => word | 4n],
  ])('%s', async (_, guest, change) => {
    await expectCorrupt(withWord(built.bytes, entry(guest), change));
  });
});

test('offset 0 without COPIED is no cluster', async () => {
  const bytes = withWord(built.bytes, entry(0), () => 0n);
  expect((await opened(bytes)).walked.findings.corruptions).toBe(0);
});

test('snapshots are a corruption', async () => {
  await expectCorrupt(image({ dataFile: true }).snapshot('a').build());
});

async function expectCorrupt(bytes: Uint8Array): Promise<void> {
  expect((await opened(bytes)).walked.findings.corruptions).toBe(1);
  expect(inspect(bytes).corruptions).toHaveLength(1);
  const device = new MemoryDevice(bytes);
  await expect(compactDevice(device)).rejects.toMatchObject({ code: 'CORRUPT' });
  expect(Buffer.compare(device.bytes(), bytes)).toBe(0);
}
