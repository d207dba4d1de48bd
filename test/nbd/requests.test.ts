/** Requests and their answers, over a disk in memory. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { QcowError } from '../../src/errors.js';
import { PIECE_BYTES } from '../../src/nbd/buffer-pool.js';
import { Random } from '../support/random.js';
import { type Client, CMD, ERR, FLAG, Gone, requestBytes, u32 } from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { type InMemory, connectTo } from './served.js';

const KIB = 1024;
const MIB = 1024 * KIB;

interface Begun extends InMemory {
  disk: MemoryDisk;
}

async function begin(
  disk: MemoryDisk,
  options: Parameters<Client['begin']>[0] = {},
  connection: Parameters<typeof connectTo>[1] = {},
): Promise<Begun> {
  const connected = connectTo(disk, connection);
  await connected.client.begin(options);
  return { ...connected, disk };
}

function filled(sizeBytes: number, isReadOnly = false): MemoryDisk {
  const disk = new MemoryDisk(sizeBytes, isReadOnly);
  disk.bytes.set(new Random(7).bytes(sizeBytes));
  return disk;
}

/** Both ways to answer. */
const WAYS = [{ structured: true }, { structured: false }];

describe.each(WAYS)('with %j', (way) => {
  test.each([
    ['a byte', 1000, 1],
    ['a block', 4096, 4096],
    ['a piece', 0, PIECE_BYTES],
    ['a byte more', 77, PIECE_BYTES + 1],
    ['3 MiB and an end that is not whole', 5, 3 * MIB + 3],
  ])('READ answers %s', async (_, offset, length) => {
    const { client, disk, budget, ended } = await begin(filled(4 * MIB), way);
    const answer = await client.ask(CMD.READ, { offset, length });
    expect(answer.error).toBe(0);
    expect(Buffer.compare(answer.data!, disk.bytes.subarray(offset, offset + length))).toBe(0);
    client.request(CMD.DISC);
    expect(await ended).toBeNull();
    expect([budget.freeBytes, budget.heldBytes]).toEqual([4 * PIECE_BYTES, 0]);
  });

  test.each([1, 512, PIECE_BYTES, 2 * PIECE_BYTES + 5, 3 * MIB])('WRITE writes %d bytes', async (length) => {
    const { client, disk, ended, budget } = await begin(filled(4 * MIB), way);
    const data = new Random(3).bytes(length);
    const expected = Uint8Array.from(disk.bytes);
    expected.set(data, 1001);
    expect(await client.ask(CMD.WRITE, { offset: 1001, data })).toMatchObject({ error: 0 });
    expect(Buffer.compare(disk.bytes, expected)).toBe(0);
    expect(disk.log).not.toContain('flush');
    client.request(CMD.DISC);
    await ended;
    expect([budget.freeBytes, budget.heldBytes]).toEqual([4 * PIECE_BYTES, 0]);
  });

  test('requests without data are passed on', async () => {
    const { client, disk } = await begin(filled(MIB), way);
    for (const [command, fields] of [
      [CMD.TRIM, { offset: 4096, length: 8192 }],
      [CMD.WRITE_ZEROES, { offset: 1, length: 2 }],
      [CMD.WRITE_ZEROES, { offset: 1, length: 3, flags: FLAG.NO_HOLE }],
      [CMD.WRITE_ZEROES, { offset: 1, length: 4, flags: FLAG.FAST_ZERO }],
      [CMD.FLUSH, {}],
      [CMD.CACHE, { offset: 10, length: PIECE_BYTES + 1 }],
    ] as const) {
      expect(await client.ask(command, fields)).toMatchObject({ error: 0, data: null });
    }
    expect(disk.log).toEqual([
      'discard 4096+8192',
      'writeZeroes 1+2',
      'writeZeroes 1+3 kept',
      'writeZeroes 1+4',
      'flush',
      `blockStatus 10+${PIECE_BYTES + 1}`,
      'read 10+4086',
      `read 12288+${PIECE_BYTES + 11 - 12_288}`,
    ]);
  });

  test('FAST_ZERO is refused where it would not be fast', async () => {
    const { client, disk } = await begin(filled(MIB), way);
    disk.hasFastZeroes = false;
    const zero = async (flags: number): Promise<number> =>
      (await client.ask(CMD.WRITE_ZEROES, { length: 512, flags })).error;
    expect([await zero(FLAG.FAST_ZERO), await zero(0), await zero(FLAG.NO_HOLE)]).toEqual([
      ERR.ENOTSUP,
      0,
      0,
    ]);
    expect(disk.log).toEqual(['writeZeroes 0+512', 'writeZeroes 0+512 kept']);
  });

  test('FUA flushes what it goes with, once it is done, and only that', async () => {
    const { client, disk } = await begin(new MemoryDisk(MIB), way);
    const flags = FLAG.FUA;
    await client.ask(CMD.WRITE, { data: new Uint8Array(3 * PIECE_BYTES), flags });
    await client.ask(CMD.TRIM, { length: 4096, flags });
    await client.ask(CMD.WRITE_ZEROES, { length: 4096, flags });
    expect(disk.log.filter((line) => line === 'flush')).toHaveLength(3);
    expect(disk.log[3]).toBe('flush');
    await client.ask(CMD.READ, { length: 4096, flags });
    await client.ask(CMD.FLUSH, { flags });
    expect(disk.log.filter((line) => line === 'flush')).toHaveLength(4);
  });

  test('what is not allowed is refused, and the next request is answered', async () => {
    const { client, disk } = await begin(filled(MIB), way);
    const refused = async (command: number, fields: Parameters<Client['ask']>[1]) =>
      (await client.ask(command, fields)).error;
    const data = new Uint8Array(4096);
    expect(await refused(CMD.READ, { offset: MIB - 1, length: 2 })).toBe(ERR.EINVAL);
    expect(await refused(CMD.READ, { offset: 2n ** 64n - 1n, length: 2 })).toBe(ERR.EINVAL);
    expect(await refused(CMD.READ, { length: 32 * MIB + 1 })).toBe(ERR.EINVAL);
    expect(await refused(CMD.WRITE, { offset: MIB - 4095, data })).toBe(ERR.ENOSPC);
    expect(await refused(CMD.WRITE, { offset: 2n ** 63n, data })).toBe(ERR.ENOSPC);
    expect(await refused(CMD.WRITE_ZEROES, { offset: 4096, length: MIB })).toBe(ERR.ENOSPC);
    expect(await refused(CMD.TRIM, { offset: 4096, length: 0xffff_ffff })).toBe(ERR.EINVAL);
    expect(await refused(CMD.CACHE, { offset: MIB, length: 1 })).toBe(ERR.EINVAL);
    expect(await refused(CMD.FLUSH, { length: 1 })).toBe(ERR.EINVAL);
    expect(await refused(CMD.WRITE_ZEROES, { length: 512, flags: FLAG.FAST_ZERO | FLAG.NO_HOLE })).toBe(
      ERR.ENOTSUP,
    );
    for (const command of [8, 99, 0xffff]) expect(await refused(command, {})).toBe(ERR.EINVAL);
    for (const flags of [FLAG.NO_HOLE, FLAG.REQ_ONE, 1 << 15]) {
      expect(await refused(CMD.READ, { length: 1, flags })).toBe(ERR.EINVAL);
      expect(await refused(CMD.WRITE, { data, flags })).toBe(ERR.EINVAL);
    }
    expect(disk.log).toEqual([]);
    expect(await refused(CMD.READ, { length: MIB })).toBe(0);
  });

  test('a payload that is too long is passed over without being kept', async () => {
    const { client, disk } = await begin(new MemoryDisk(MIB), way);
    client.send(requestBytes(CMD.WRITE, 900, { length: 33 * MIB }));
    for (let sent = 0; sent < 33; sent++) client.send(new Uint8Array(MIB));
    expect(await client.answer()).toMatchObject({ cookie: 900n, error: ERR.EINVAL });
    expect((await client.ask(CMD.FLUSH)).error).toBe(0);
    expect(disk.log).toEqual(['flush']);
  });

  test('nothing of a read-only disk is changed', async () => {
    const { client, disk } = await begin(filled(MIB, true), way);
    for (const command of [CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES]) {
      const data = command === CMD.WRITE ? new Uint8Array(512) : undefined;
      expect((await client.ask(command, { length: 512, ...(data && { data }) })).error).toBe(ERR.EPERM);
    }
    expect((await client.ask(CMD.FLUSH)).error).toBe(0);
    expect((await client.ask(CMD.READ, { length: 512 })).data).toEqual(
      Buffer.from(disk.bytes.subarray(0, 512)),
    );
  });

  test('requests of no length are answered', async () => {
    const { client } = await begin(new MemoryDisk(512), way);
    for (const command of [CMD.READ, CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE]) {
      expect((await client.ask(command, { offset: 512 })).error).toBe(0);
    }
  });

  test('answers come as they are ready', async () => {
    const { client, disk } = await begin(filled(MIB), way);
    let goOn: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (goOn = resolve));
    disk.before = (_, offset) => (offset === 0 ? held : undefined);
    const slow = client.request(CMD.READ, { offset: 0, length: 10 });
    const quick = client.request(CMD.READ, { offset: 10, length: 10 });
    expect((await client.answer()).cookie).toBe(quick);
    goOn();
    expect((await client.answer()).cookie).toBe(slow);
  });

  test.each([
    [new QcowError('NO_SPACE', 'full'), ERR.ENOSPC],
    [new QcowError('IO', 'broken'), ERR.EIO],
    [Object.assign(new Error('EDQUOT'), { code: 'EDQUOT', syscall: 'write' }), ERR.ENOSPC],
    [new TypeError('a mistake'), ERR.EIO],
  ])('a failure (%s) of the disk is told as %d, and the connection goes on', async (failure, error) => {
    const { client, disk, failures } = await begin(filled(MIB), way);
    disk.before = () => {
      throw failure;
    };
    const data = new Uint8Array(3 * PIECE_BYTES);
    const fails = [
      await client.ask(CMD.READ, { length: 100 }),
      await client.ask(CMD.WRITE, { data }),
      await client.ask(CMD.WRITE_ZEROES, { length: 100 }),
      await client.ask(CMD.TRIM, { length: 100 }),
      await client.ask(CMD.FLUSH),
    ];
    for (const answer of fails)
      expect(answer).toMatchObject({ error, message: way.structured ? failure.message : '' });
    expect(failures).toHaveLength(fails.length);
    disk.before = () => undefined;
    expect((await client.ask(CMD.READ, { length: 100 })).error).toBe(0);
  });

  test('a write is not acknowledged where its flush fails', async () => {
    const { client, disk } = await begin(new MemoryDisk(MIB), way);
    disk.before = (operation) => {
      if (operation === 'flush') throw new QcowError('IO', 'broken');
    };
    expect((await client.ask(CMD.WRITE, { data: new Uint8Array(512), flags: FLAG.FUA })).error).toBe(ERR.EIO);
  });
});

describe('structured reads', () => {
  test('send holes of 32 KiB and more as such', async () => {
    const { client, disk } = await begin(new MemoryDisk(MIB));
    disk.bytes.fill(1, 64 * KIB, 68 * KIB);
    disk.bytes.fill(1, 96 * KIB, 128 * KIB);
    disk.bytes.fill(2, 1000 * KIB);
    const answer = await client.ask(CMD.READ, { length: MIB });
    expect(Buffer.compare(answer.data!, disk.bytes)).toBe(0);
    expect(answer.chunks.toSorted((a, b) => parseInt(a.slice(5)) - parseInt(b.slice(5)))).toEqual([
      'hole 0+65536',
      'data 65536+65536',
      'hole 131072+131072',
      'hole 262144+262144',
      'hole 524288+262144',
      'hole 786432+237568',
      'data 1024000+24576',
    ]);
  });

  test('with DF are one chunk, however long and whatever is in it', async () => {
    const { client, disk } = await begin(new MemoryDisk(4 * MIB));
    disk.bytes.fill(1, 64 * KIB, 68 * KIB);
    for (const length of [4096, PIECE_BYTES, 4 * MIB]) {
      const answer = await client.ask(CMD.READ, { length, flags: FLAG.DF });
      expect(answer.chunks).toEqual([`data 0+${length}`]);
      expect(Buffer.compare(answer.data!, disk.bytes.subarray(0, length))).toBe(0);
    }
  });

  test('that fail in one of their pieces fail as a whole, after the other pieces', async () => {
    const { client, disk, budget, ended } = await begin(filled(4 * MIB));
    disk.before = (_, offset) => {
      if (offset === 2 * MIB) throw new QcowError('IO', 'broken');
    };
    const answer = await client.ask(CMD.READ, { length: 4 * MIB });
    expect(answer).toMatchObject({ error: ERR.EIO, message: 'broken' });
    expect(answer.chunks).toHaveLength(15);
    client.request(CMD.DISC);
    await ended;
    expect([budget.freeBytes, budget.heldBytes]).toEqual([4 * PIECE_BYTES, 0]);
  });

  describe.each([
    ['simple', { structured: false }, 0],
    ['with DF', {}, FLAG.DF],
  ])('in one part (%s)', (_, way, flags) => {
    const failsAt =
      (where: number) =>
      (operation: string, offset: number): void => {
        if (operation === 'read' && offset === where) throw new QcowError('IO', 'broken');
      };

    test('fail as a whole where there is room for them', async () => {
      const { client, disk, budget } = await begin(filled(2 * MIB), way);
      for (const where of [0, 512 * KIB, 768 * KIB]) {
        disk.before = failsAt(where);
        const answer = await client.ask(CMD.READ, { length: MIB, flags });
        expect(answer).toMatchObject({ error: ERR.EIO, chunks: [] });
      }
      disk.before = () => undefined;
      const answer = await client.ask(CMD.READ, { length: MIB, flags });
      expect(Buffer.compare(answer.data!, disk.bytes.subarray(0, MIB))).toBe(0);
      expect(budget.freeBytes).toBe(4 * PIECE_BYTES);
    });

    test('fail as a whole where the first of many pieces fails', async () => {
      const { client, disk, budget } = await begin(filled(4 * MIB), way);
      disk.before = failsAt(0);
      const answer = await client.ask(CMD.READ, { length: 4 * MIB, flags });
      expect(answer).toMatchObject({ error: ERR.EIO, chunks: [] });
      expect((await client.ask(CMD.READ, { offset: 1, length: 4 * MIB - 1, flags })).error).toBe(0);
      expect(budget.freeBytes).toBe(4 * PIECE_BYTES);
    });
  });

  test('of many pieces with DF, that fail amidst them, go on with zeroes and end with the failure', async () => {
    const { client, disk, failures } = await begin(filled(4 * MIB));
    disk.before = (_, offset) => {
      if (offset === 2 * MIB) throw new QcowError('IO', 'broken');
    };
    const answer = await client.ask(CMD.READ, { length: 4 * MIB, flags: FLAG.DF });
    expect(answer).toMatchObject({ error: ERR.EIO, message: 'broken', chunks: [`data 0+${4 * MIB}`] });
    expect(Buffer.compare(answer.data!.subarray(0, 2 * MIB), disk.bytes.subarray(0, 2 * MIB))).toBe(0);
    expect(answer.data!.subarray(2 * MIB).every((byte) => byte === 0)).toBe(true);
    expect(failures).toHaveLength(1);
    expect((await client.ask(CMD.FLUSH)).error).toBe(0);
  });

  test('simple: one of many pieces that fails amidst them cuts off, since there is no other way to say it', async () => {
    const { client, disk } = await begin(filled(4 * MIB), { structured: false });
    disk.before = (_, offset) => {
      if (offset === 2 * MIB) throw new QcowError('IO', 'broken');
    };
    await expect(client.ask(CMD.READ, { length: 4 * MIB })).rejects.toThrow(Gone);
  });

  test('nothing of another answer comes between the parts of a long one', async () => {
    const { client, disk } = await begin(filled(8 * MIB), { structured: false });
    const random = new Random(11);
    const wanted = new Map<bigint, [number, number]>();
    for (let i = 0; i < 60; i++) {
      const length = random.chance(0.3) ? random.between(1, 3 * MIB) : random.between(1, 8192);
      const offset = random.int(8 * MIB - length);
      wanted.set(client.request(CMD.READ, { offset, length }), [offset, length]);
    }
    while (wanted.size > 0) {
      const { cookie, data } = await client.answer();
      const [offset, length] = wanted.get(cookie)!;
      expect(Buffer.compare(data!, disk.bytes.subarray(offset, offset + length))).toBe(0);
      wanted.delete(cookie);
    }
  });
});

describe('BLOCK_STATUS', () => {
  test('tells data, and zeroes without room', async () => {
    const { client, disk } = await begin(new MemoryDisk(64 * KIB));
    disk.bytes.fill(1, 8 * KIB, 16 * KIB);
    expect((await client.ask(CMD.BLOCK_STATUS, { length: 64 * KIB })).extents).toEqual([
      [8192, 3],
      [8192, 0],
      [49152, 3],
    ]);
    expect(
      (await client.ask(CMD.BLOCK_STATUS, { offset: 9000, length: 20_000, flags: FLAG.REQ_ONE })).extents,
    ).toEqual([[16384 - 9000, 0]]);
    for (const fields of [{ length: 0 }, { offset: 1, length: 64 * KIB }])
      expect((await client.ask(CMD.BLOCK_STATUS, fields)).error).toBe(ERR.EINVAL);
  });

  test('goes through a long disk in steps, and says as much as one answer holds', async () => {
    const { client, disk } = await begin(new MemoryDisk(600 * MIB));
    expect((await client.ask(CMD.BLOCK_STATUS, { length: 600 * MIB })).extents).toEqual([[600 * MIB, 3]]);
    expect(disk.log).toHaveLength(3);
    for (let at = 0; at < disk.sizeBytes; at += 8192) disk.bytes[at] = 1;
    const { extents } = await client.ask(CMD.BLOCK_STATUS, { length: 48 * MIB });
    expect(extents).toHaveLength(4096);
    expect(extents.slice(0, 2)).toEqual([
      [4096, 0],
      [4096, 3],
    ]);
  });
});

describe('the end', () => {
  test.each([
    ['a wrong magic', Buffer.concat([u32(0x25609514), new Uint8Array(24)])],
    ['an option', Buffer.concat([Buffer.from('IHAVEOPT'), new Uint8Array(20)])],
  ])('%s cuts off, and what was under way is finished', async (_, bytes) => {
    const { client, disk, ended } = await begin(new MemoryDisk(MIB));
    client.request(CMD.WRITE, { data: Buffer.from('hello') });
    client.send(bytes);
    expect((await ended)?.message).toBe('no request where one was due');
    expect(Buffer.from(disk.bytes.subarray(0, 5)).toString()).toBe('hello');
  });

  test.each([
    ['after what is no request', new Uint8Array(28), 'no request where one was due', {}],
    ['after DISC', requestBytes(CMD.DISC, 9), undefined, { farewellMs: 50 }],
    ['after the end of the stream', null, undefined, { farewellMs: 50 }],
  ])('a client that takes no answers is not waited for %s', async (_, bytes, problem, limit) => {
    const { client, ended } = await begin(filled(4 * MIB), {}, limit);
    client.stream.pause();
    for (let i = 0; i < 3; i++) client.send(requestBytes(CMD.READ, i, { length: 4 * MIB, flags: FLAG.DF }));
    if (bytes === null) client.stream.end();
    else client.send(bytes);
    expect((await ended)?.message).toBe(problem);
  });

  test.each(['DISC', 'the end of the stream'])(
    '%s: all that was asked for before is answered',
    async (way) => {
      const { client, disk, ended } = await begin(filled(MIB));
      disk.before = () => new Promise((resolve) => setTimeout(resolve, 20));
      for (let i = 0; i < 10; i++) client.request(CMD.READ, { offset: i, length: 100 });
      if (way === 'DISC') client.request(CMD.DISC);
      client.stream.end();
      const seen = new Set<bigint>();
      for (let i = 0; i < 10; i++) seen.add((await client.answer()).cookie);
      expect(seen.size).toBe(10);
      expect(await client.rest()).toHaveLength(0);
      expect(await ended).toBeNull();
    },
  );

  test('a client that stops amidst its data has written whole pieces, or nothing', async () => {
    const { client, disk, ended, budget } = await begin(new MemoryDisk(MIB));
    client.send(requestBytes(CMD.WRITE, 1, { length: MIB }), new Uint8Array(PIECE_BYTES + 100).fill(5));
    client.stream.end();
    expect(await ended).toBeNull();
    expect(disk.bytes.findIndex((byte) => byte !== 5)).toBe(PIECE_BYTES);
    expect([budget.freeBytes, budget.heldBytes]).toEqual([4 * PIECE_BYTES, 0]);
  });

  test('a stop lets what is under way finish, refuses what has come since, and lets the client go', async () => {
    const { client, connection, disk, ended } = await begin(filled(MIB));
    let goOn: () => void = () => undefined;
    disk.before = () => new Promise<void>((resolve) => (goOn = resolve));
    const first = client.request(CMD.READ, { length: 100 });
    await new Promise((resolve) => setTimeout(resolve, 10));
    connection.stop();
    goOn();
    expect(await client.answer()).toMatchObject({ cookie: first, error: 0 });
    client.stream.end();
    expect(await ended).toBeNull();
  });

  test('a stop lets go nobody who asks again soon after he had his answer', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    onTestFinished(() => void vi.useRealTimers());
    const { client, connection, ended } = connectTo(new MemoryDisk(512));
    await client.begin();
    connection.stop();
    for (let i = 0; i < 3; i++) {
      // He is looked at once, and found to wait for nothing.
      vi.advanceTimersByTime(20);
      await nextTurn();
      expect((await client.ask(CMD.FLUSH)).error).toBe(ERR.ESHUTDOWN);
    }
    vi.advanceTimersByTime(40);
    expect(await client.rest()).toHaveLength(0);
    client.stream.end();
    expect(await ended).toBeNull();
  });

  test('a stop refuses all that the client has sent already, or sends while it waits', async () => {
    const { client, connection, disk, ended } = await begin(filled(MIB));
    let goOn: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (goOn = resolve));
    disk.before = () => held;
    const data = new Uint8Array(100_000);
    for (let i = 0; i < 12; i++) client.request(CMD.READ, { length: 100 });
    while (disk.atWork < 12) await new Promise((resolve) => setTimeout(resolve, 1));
    connection.stop();
    for (let i = 0; i < 50; i++) client.request(CMD.WRITE, { data });
    await new Promise((resolve) => setTimeout(resolve, 100));
    client.request(CMD.FLUSH);
    for (let i = 0; i < 51; i++) expect((await client.answer()).error).toBe(ERR.ESHUTDOWN);
    goOn();
    for (let i = 0; i < 12; i++) expect((await client.answer()).error).toBe(0);
    // It waits for nothing now.
    expect(await client.rest()).toHaveLength(0);
    client.stream.end();
    expect(await ended).toBeNull();
  });

  test('a stop does not go on refusing for ever', async () => {
    const { client, connection, ended } = await begin(filled(MIB));
    connection.stop();
    const askOn = async (): Promise<void> => {
      for (;;) {
        expect((await client.ask(CMD.READ, { length: 100 })).error).toBe(ERR.ESHUTDOWN);
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    await expect(askOn()).rejects.toThrow(Gone);
    client.stream.end();
    expect(await ended).toBeNull();
  });

  test('a stop amidst a write takes the rest of it, and refuses what comes behind', async () => {
    const { client, connection, disk, ended } = await begin(new MemoryDisk(MIB));
    const write = requestBytes(CMD.WRITE, 1, { data: new Uint8Array(1000).fill(7) });
    client.send(write.subarray(0, 500));
    await new Promise((resolve) => setTimeout(resolve, 10));
    connection.stop();
    client.send(
      Buffer.concat([write.subarray(500), requestBytes(CMD.WRITE, 2, { data: new Uint8Array(9) })]),
    );
    const answers = [await client.answer(), await client.answer()];
    expect(answers.map(({ cookie, error }) => [cookie, error])).toEqual(
      expect.arrayContaining([
        [1n, 0],
        [2n, ERR.ESHUTDOWN],
      ]),
    );
    client.stream.end();
    expect(await ended).toBeNull();
    expect(disk.bytes.subarray(0, 1000).every((byte) => byte === 7)).toBe(true);
  });
});
