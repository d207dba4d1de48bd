/** From the secret to what moves data; a header may be anything. */
import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { QcowError } from '../../src/errors.js';
import { unlock } from '../../src/luks/unlock.js';
import { MASTER_KEY, SECRET, decryptSectors, encryptSectors, luksHeader } from '../support/luks.js';
import { Random } from '../support/random.js';

const SEED = Number(process.env.SEED ?? 1);
const COUNT = Number(process.env.COUNT ?? 4000);
/** Where the region lies in the file. */
const OFFSET = 4096;

function open(header: Uint8Array, secret: string | Uint8Array, lengthBytes = header.length) {
  const file = new Uint8Array(OFFSET + header.length);
  file.set(header, OFFSET);
  const place = { slot: 0, offset: OFFSET, lengthBytes };
  return unlock(new MemoryDevice(file), place, Buffer.from(secret));
}

async function failure(opened: Promise<unknown>): Promise<QcowError> {
  const error: unknown = await opened.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(QcowError);
  return error as QcowError;
}

const plain = Uint8Array.from({ length: 4096 }, (_, i) => i % 251);

test('data are decrypted for where they were and encrypted for where they go', async () => {
  const reencryption = await open(luksHeader(), SECRET);
  const bytes = new Uint8Array(encryptSectors(plain, 0x7000));
  reencryption.transform(bytes, 0x7000, 0x12_3456_7800);
  expect(Buffer.compare(bytes, encryptSectors(plain, 0x12_3456_7800))).toBe(0);
  expect(Buffer.compare(decryptSectors(bytes, 0x12_3456_7800), plain)).toBe(0);
});

test.each([0, 1, 2, 3, 4, 5, 6, 7])('the secret of key slot %i', async (slot) => {
  const slots = Object.fromEntries([...Array(8).keys()].map((index) => [index, `secret ${index}`]));
  const reencryption = await open(luksHeader({ slots }), `secret ${slot}`);
  const bytes = new Uint8Array(encryptSectors(plain, 512));
  reencryption.transform(bytes, 512, 0);
  expect(Buffer.compare(bytes, encryptSectors(plain, 0, MASTER_KEY))).toBe(0);
});

test('a slot that is not in use opens nothing, whatever is left in it', async () => {
  const header = luksHeader({ slots: { 0: 'old', 1: 'new' } });
  header.writeUInt32BE(0x0000dead, 208);
  expect(await failure(open(header, 'old'))).toMatchObject({ code: 'WRONG_SECRET' });
  await open(header, 'new');
});

test('a secret of any bytes, and none', async () => {
  const bytes = Uint8Array.of(0, 255, 10, 13, 128);
  await open(luksHeader({ slots: { 0: bytes } }), bytes);
  await open(luksHeader({ slots: { 0: '' } }), '');
});

describe('a wrong secret', () => {
  test.each([
    ['', /the secret is empty$/],
    ['mellon', /none of the image's key slots \(1 in use\)$/],
    [`${SECRET}\n`, /ends in a newline.*as it does for QEMU/],
  ])('%j', async (secret, words) => {
    const error = await failure(open(luksHeader(), secret));
    expect(error).toMatchObject({ code: 'WRONG_SECRET', exitStatus: 10 });
    expect(error.message).toMatch(words);
    if (secret.length > 0) expect(error.message).not.toContain(secret.trim());
  });

  test('where the digest is damaged, the right one is wrong too', async () => {
    const header = luksHeader();
    header[112]! ^= 1;
    expect(await failure(open(header, SECRET))).toMatchObject({ code: 'WRONG_SECRET' });
  });
});

test('the secret stays as it was given', async () => {
  const secret = Buffer.from(SECRET);
  const file = luksHeader();
  await unlock(new MemoryDevice(file), { slot: 0, offset: 0, lengthBytes: file.length }, secret);
  expect(secret.toString()).toBe(SECRET);
});

test('a host that fails a read fails the unlocking with its own error', async () => {
  const device = new MemoryDevice(luksHeader());
  device.read = () => Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO' }));
  const place = { slot: 0, offset: 0, lengthBytes: 1536 };
  await expect(unlock(device, place, Buffer.from(SECRET))).rejects.toMatchObject({ code: 'EIO' });
});

/** Values that a field of a header is likely to be handled wrongly with. */
const AWKWARD = [0, 1, 2, 3, 0x7f, 0xff, 0xdead, 0xffff, 0x00ac71f3, 0x7fffffff, 0x80000000, 0xffffffff];

test(`mutated headers are refused in one line, or open, seeds from ${SEED}`, async () => {
  const outcomes: Record<string, number> = {};
  for (let seed = SEED; seed < SEED + COUNT; seed++) {
    const random = new Random(seed);
    const header = luksHeader({ slots: { 0: SECRET, 2: 'other' } });
    for (let change = random.between(1, 3); change > 0; change--) {
      if (random.chance(0.5)) header[random.int(592)] = random.int(256);
      else
        header.writeUInt32BE(
          random.pick(AWKWARD),
          random.pick([0, 4, 104, 108, 164, 208, 212, 248, 252, 304, 308]),
        );
    }
    const lengthBytes = random.chance(0.1) ? random.int(header.length + 1) : header.length;
    // What may take minutes is left out; what is above the bound stays in.
    if (iterations(header) > 20_000 && iterations(header) <= 2 ** 28) header.writeUInt32BE(7, 164);
    if (iterations(header) > 20_000 && iterations(header) <= 2 ** 28) continue;
    const outcome = await open(header, SECRET, lengthBytes).then(
      () => 'opened',
      (error: unknown) => {
        expect(error, `seed ${seed}`).toBeInstanceOf(QcowError);
        const { code, message } = error as QcowError;
        expect(message, `seed ${seed}`).toMatch(/^[ -~]+$/);
        expect(['CORRUPT', 'UNSUPPORTED', 'WRONG_SECRET'], `seed ${seed}`).toContain(code);
        return code;
      },
    );
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  }
  console.log(outcomes);
  for (const outcome of ['opened', 'CORRUPT', 'UNSUPPORTED', 'WRONG_SECRET'])
    expect(outcomes[outcome], outcome).toBeGreaterThan(COUNT / 100);
});

function iterations(header: Buffer): number {
  const slots = [208, 304].filter((at) => header.readUInt32BE(at) === 0x00ac71f3);
  return slots.reduce((sum, at) => sum + header.readUInt32BE(at + 4) + header.readUInt32BE(164), 0);
}
