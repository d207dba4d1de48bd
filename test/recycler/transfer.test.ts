/** What encrypted data need on their way to another place; a mistake in it shows. */
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { Reencryption } from '../../src/luks/reencryption.js';
import { SectorCipher } from '../../src/luks/sector-cipher.js';
import { AS_IT_IS, type Transfer } from '../../src/recycler/transfer.js';
import { image } from '../support/image-builder.js';
import { MASTER_KEY, SECRET } from '../support/luks.js';
import { compareGuestView, guestView, inspect, readGuest } from '../support/oracle.js';
import { inOrder, plannedMoves, rigFor, runRound } from './harness.js';

const CIPHER = new SectorCipher(
  { mode: 'xts', keyBytes: 64, vectors: 'plain64', vectorHash: '' },
  MASTER_KEY.slice(),
);
const reencryption = new Reencryption(CIPHER);

/** The header, then junk, then tables, then data; some of the data are holes of the host file, one ends with the file. */
function built() {
  return image({ encryption: 2, unlockable: true, virtualSize: 64 << 10 })
    .writeRange(0, 12)
    .zero(4, { allocated: true })
    .layout({ gap: 16, zeroJunk: true, arrange: inOrder('LUKS', 'junk', 'refcount', 'L', 'data') })
    .buildWithMap();
}

async function withHoles() {
  const { bytes, where } = built();
  const clusters = [2, 3, 7].map((guest) => where(`data active:${guest}`));
  for (const cluster of clusters) bytes.fill(0, cluster * 512, (cluster + 1) * 512);
  const punch = async (device: MemoryDevice) => {
    for (const cluster of clusters) await device.punch(cluster * 512, 512);
  };
  return { bytes, punch };
}

/** One round of all moves of a plan; the difference that the guest sees, or null. */
async function differenceWith(transfer: Transfer): Promise<string | null> {
  const { bytes, punch } = await withHoles();
  const rig = await rigFor(bytes, { reencryption: transfer });
  await punch(rig.memory);
  await runRound(rig, await plannedMoves(rig));
  expect(inspect(rig.memory.bytes()).corruptions).toEqual([]);
  return compareGuestView(guestView(bytes), rig.memory.bytes());
}

test('the guest reads the same, noise of holes included', async () => {
  expect(await differenceWith(reencryption)).toBeNull();
});

describe('caught:', () => {
  test.each<[string, Transfer]>([
    ['data are moved as they are', { ...AS_IT_IS, keepsHoles: false }],
    ['holes stay holes', { keepsHoles: true, transform: (...move) => reencryption.transform(...move) }],
    [
      'the new place is one sector off',
      {
        keepsHoles: false,
        transform: (bytes, from, to) => reencryption.transform(bytes, from, to + 512),
      },
    ],
    [
      'the old place is one sector off',
      {
        keepsHoles: false,
        transform: (bytes, from, to) => reencryption.transform(bytes, from + 512, to),
      },
    ],
    [
      'encrypted only, and not decrypted before',
      { keepsHoles: false, transform: (bytes, _, to) => CIPHER.encrypt(bytes, to / 512) },
    ],
  ])('%s', async (_, transfer) => {
    expect(await differenceWith(transfer)).toMatch(/the data differ/);
  });
});

test('a hole reads as noise that is no zeroes, before and after', async () => {
  const { bytes, punch } = await withHoles();
  const device = new MemoryDevice(bytes);
  await punch(device);
  const { outcome, pinnedClusters } = await compactDevice(device, { secret: SECRET, runtimeAsserts: true });
  expect({ outcome, pinnedClusters }).toEqual({ outcome: 'compacted', pinnedClusters: 3 });
  const seen = readGuest(guestView(device.bytes()));
  expect(Buffer.compare(seen, readGuest(guestView(bytes)))).toBe(0);
  expect(seen.subarray(2 * 512, 4 * 512).some((byte) => byte !== 0)).toBe(true);
});

test('without the secret the same image keeps its data where they are, holes too', async () => {
  const { bytes, punch } = await withHoles();
  const device = new MemoryDevice(bytes);
  await punch(device);
  const { pinnedClusters, bytesMoved } = await compactDevice(device, { runtimeAsserts: true });
  expect(pinnedClusters).toBe(3 + 12);
  expect(bytesMoved).toBeLessThan(12 * 512);
  expect(compareGuestView(guestView(bytes), device.bytes())).toBeNull();
});

test('what lies beyond the end of the file is decrypted as zeroes', async () => {
  const { bytes } = built();
  const cut = bytes.subarray(0, bytes.length - 300);
  const before = readGuest(guestView(cut));
  const device = new MemoryDevice(cut);
  await compactDevice(device, { secret: Buffer.from(SECRET), runtimeAsserts: true });
  expect(Buffer.compare(readGuest(guestView(device.bytes())), before)).toBe(0);
});
