/** The negotiation byte by byte: what is offered, refused, and in which order it counts. */
import { describe, expect, test } from 'vitest';
import {
  type Client,
  CMD,
  ERR,
  Gone,
  OPT,
  REP,
  goData,
  metaData,
  optionBytes,
  requestBytes,
  string32,
  u16,
  u32,
} from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { connectTo } from './served.js';

const KIB = 1024;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const typesOf = (answers: { type: number }[]): number[] => answers.map(({ type }) => type);

/** FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO. */
const WRITABLE = 0b1101_0110_1101;
const READ_ONLY = 0b0101_0000_1111;
const DF = 1 << 7;

describe('the greeting', () => {
  test('is that of fixed newstyle, with NO_ZEROES', async () => {
    const { client } = connectTo(new MemoryDisk(0));
    expect(hex(await client.take(18))).toBe('4e42444d4147494349484156454f50540003');
  });

  test.each([4, 0x8000_0000])('client flags that were not offered (%d) end it', async (flags) => {
    const { client, ended } = connectTo(new MemoryDisk(0));
    await client.greet(flags);
    expect((await ended)?.message).toMatch(/client flags/);
    await expect(client.take(1)).rejects.toThrow(Gone);
  });
});

describe('EXPORT_NAME', () => {
  test.each([
    ['with padding', 1, 134],
    ['without', 3, 10],
  ])('begins the transmission, %s', async (_, flags, length) => {
    const disk = new MemoryDisk(0x1234);
    const { client, ended } = connectTo(disk, { name: 'vm' });
    await client.greet(flags);
    client.send(optionBytes(OPT.EXPORT_NAME, Buffer.from('vm')));
    const reply = await client.take(length);
    expect(hex(reply.subarray(0, 10))).toBe(`0000000000001234${hex(u16(WRITABLE))}`);
    expect(reply.subarray(10).every((byte) => byte === 0)).toBe(true);
    expect((await client.ask(CMD.READ, { length: 4 })).data).toEqual(Buffer.alloc(4));
    client.request(CMD.DISC);
    expect(await ended).toBeNull();
  });

  test('of another export cuts off, since there is no way to refuse', async () => {
    const { client, ended } = connectTo(new MemoryDisk(1), { name: 'vm' });
    await client.greet();
    client.send(optionBytes(OPT.EXPORT_NAME, Buffer.from('other')));
    expect((await ended)?.message).toBe('an export was chosen that is not served');
    expect(await client.rest()).toHaveLength(0);
  });
});

describe('INFO and GO', () => {
  test('tell size and flags, the sizes of blocks, and the name where it is asked for', async () => {
    const { client } = connectTo(new MemoryDisk(5 * KIB), { name: 'vm' });
    await client.greet();
    expect(typesOf(await client.option(OPT.INFO, goData('vm')))).toEqual([REP.INFO, REP.INFO, REP.ACK]);
    await client.option(OPT.STRUCTURED);
    const answers = await client.option(OPT.GO, goData('vm', [1, 3, 77]));
    expect(answers.map(({ data }) => hex(data))).toEqual([
      `00000000000000001400${hex(u16(WRITABLE | DF))}`,
      `0001${hex(Buffer.from('vm'))}`,
      '0003000000010001000002000000',
      '',
    ]);
    expect((await client.ask(CMD.READ, { length: 1 })).chunks).toEqual(['data 0+1']);
  });

  test('of a read-only disk do not offer to change it', async () => {
    const { client } = connectTo(new MemoryDisk(512, true));
    await client.greet();
    const [info] = await client.option(OPT.GO, goData());
    expect(info!.data.readUInt16BE(10)).toBe(READ_ONLY);
  });

  test('with the empty name mean the one that there is; another one is unknown, and the client may go on', async () => {
    const { client } = connectTo(new MemoryDisk(512), { name: 'vm' });
    await client.greet();
    expect(typesOf(await client.option(OPT.GO, goData('other')))).toEqual([REP.UNKNOWN]);
    expect(typesOf(await client.option(OPT.INFO, goData('')))).toEqual([REP.INFO, REP.INFO, REP.ACK]);
    expect(typesOf(await client.option(OPT.GO, goData('')))).toEqual([REP.INFO, REP.INFO, REP.ACK]);
  });

  test.each([
    ['no data', Buffer.alloc(0)],
    ['a name that is longer than the data', Buffer.concat([u32(9), Buffer.from('vm'), u16(0)])],
    ['fewer kinds than it says', Buffer.concat([string32(''), u16(2), u16(3)])],
    ['more behind its end', Buffer.concat([goData(''), u16(3)])],
    ['no count', string32('vm')],
    ['a name of 4 GiB', u32(0xffff_ffff)],
    ['a name that is no text', Buffer.concat([u32(1), Buffer.from([0xff]), u16(0)])],
  ])('with %s are invalid, and the client may go on', async (_, data) => {
    const { client } = connectTo(new MemoryDisk(512));
    await client.greet();
    expect(typesOf(await client.option(OPT.GO, data))).toEqual([REP.INVALID]);
    expect(typesOf(await client.option(OPT.GO, goData()))).toEqual([REP.INFO, REP.INFO, REP.ACK]);
  });
});

describe('metadata contexts', () => {
  async function structured() {
    const connected = connectTo(new MemoryDisk(8 * KIB), { name: 'vm' });
    await connected.client.greet();
    await connected.client.option(OPT.STRUCTURED);
    return connected.client;
  }
  const shown = (answers: { type: number; data: Buffer }[]) =>
    answers.map(({ type, data }) =>
      type === REP.META ? `${data.readUInt32BE()} ${data.toString('utf8', 4)}` : type,
    );

  test('are invalid before structured replies are agreed on', async () => {
    const { client } = connectTo(new MemoryDisk(512));
    await client.greet();
    expect(typesOf(await client.option(OPT.SET_META, metaData()))).toEqual([REP.INVALID]);
    expect(typesOf(await client.option(OPT.LIST_META, metaData()))).toEqual([REP.INVALID]);
  });

  test.each([
    ['nothing', [], ['0 base:allocation', REP.ACK]],
    ['the namespace', ['base:'], ['0 base:allocation', REP.ACK]],
    ['the name', ['qemu:dirty', 'base:allocation'], ['0 base:allocation', REP.ACK]],
    ['another', ['qemu:dirty'], [REP.ACK]],
  ])('are listed for %s', async (_, queries, expected) => {
    expect(shown(await (await structured()).option(OPT.LIST_META, metaData('vm', queries)))).toEqual(
      expected,
    );
  });

  test.each([
    ['the name', ['x:y', 'base:allocation'], ['1 base:allocation', REP.ACK], 0],
    ['the namespace', ['base:'], [REP.ACK], ERR.EINVAL],
    ['nothing', [], [REP.ACK], ERR.EINVAL],
  ])('are chosen by %s', async (_, queries, expected, error) => {
    const client = await structured();
    expect(shown(await client.option(OPT.SET_META, metaData('vm', queries)))).toEqual(expected);
    await client.option(OPT.GO, goData('vm'));
    expect((await client.ask(CMD.BLOCK_STATUS, { length: 4096 })).error).toBe(error);
  });

  test.each([
    ['an empty choice', metaData('vm', []), REP.ACK],
    ['one for another export', metaData('other'), REP.UNKNOWN],
    ['a malformed one', Buffer.concat([metaData('vm'), u32(1)]), REP.INVALID],
    ['a count that the data do not bear out', Buffer.concat([string32('vm'), u32(0xffff_ffff)]), REP.INVALID],
  ])('that were chosen are dropped by %s', async (_, data, type) => {
    const client = await structured();
    await client.option(OPT.SET_META, metaData('vm'));
    expect(typesOf(await client.option(OPT.SET_META, data))).toEqual([type]);
    await client.option(OPT.GO, goData('vm'));
    expect((await client.ask(CMD.BLOCK_STATUS, { length: 4096 })).error).toBe(ERR.EINVAL);
  });
});

describe('other options', () => {
  test('LIST names the export', async () => {
    const { client } = connectTo(new MemoryDisk(512), { name: 'vm' });
    await client.greet();
    const answers = await client.option(OPT.LIST);
    expect(typesOf(answers)).toEqual([REP.SERVER, REP.ACK]);
    expect(answers[0]!.data).toEqual(string32('vm'));
    expect(typesOf(await client.option(OPT.LIST, Buffer.alloc(1)))).toEqual([REP.INVALID]);
    expect(typesOf(await client.option(OPT.STRUCTURED, Buffer.alloc(1)))).toEqual([REP.INVALID]);
  });

  test('ABORT is acknowledged, and ends it', async () => {
    const { client, ended } = connectTo(new MemoryDisk(512));
    await client.greet();
    expect(typesOf(await client.option(OPT.ABORT))).toEqual([REP.ACK]);
    client.stream.end();
    expect(await ended).toBeNull();
  });

  test.each([4, 11, 99, 0, 0xffff_ffff])(
    'number %d is not known, and its data are skipped',
    async (option) => {
      const { client } = connectTo(new MemoryDisk(512));
      await client.greet();
      expect(typesOf(await client.option(option, Buffer.alloc(5000)))).toEqual([REP.UNSUP]);
      expect(typesOf(await client.option(OPT.GO, goData()))).toEqual([REP.INFO, REP.INFO, REP.ACK]);
    },
  );

  test('STARTTLS without a certificate is against the policy', async () => {
    const { client } = connectTo(new MemoryDisk(512));
    await client.greet();
    expect(typesOf(await client.option(OPT.STARTTLS))).toEqual([REP.POLICY]);
  });

  test('data of more than 64 KiB are too big, and skipped without being kept', async () => {
    const { client } = connectTo(new MemoryDisk(512));
    await client.greet();
    expect(typesOf(await client.option(OPT.GO, Buffer.alloc(3 << 20)))).toEqual([REP.TOO_BIG]);
    expect(typesOf(await client.option(OPT.GO, goData()))).toEqual([REP.INFO, REP.INFO, REP.ACK]);
  });

  test.each([
    ['data of 4 GiB', Buffer.concat([Buffer.from('IHAVEOPT'), u32(7), u32(0xffff_ffff)])],
    ['a wrong magic', Buffer.concat([Buffer.from('IHAVEOPS'), u32(7), u32(0)])],
    ['a request', requestBytes(CMD.READ, 1)],
    ['a browser', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ])('%s: cut off', async (_, bytes) => {
    const { client, ended } = connectTo(new MemoryDisk(512));
    await client.greet();
    client.send(bytes);
    expect((await ended)?.name).toBe('ProtocolError');
    await expect(client.take(1)).rejects.toThrow(Gone);
  });

  test('a client that goes in between is no problem', async () => {
    for (const sent of [0, 10]) {
      const { client, ended } = connectTo(new MemoryDisk(512));
      await client.greet();
      client.send(optionBytes(OPT.LIST).subarray(0, sent));
      client.stream.end();
      expect(await ended).toBeNull();
    }
  });

  test('whoever negotiates for ever is cut off', async () => {
    const { client, ended } = connectTo(new MemoryDisk(512), { negotiationMs: 30 });
    await client.greet();
    expect(await ended).toBeNull();
    await expect(client.take(1)).rejects.toThrow(Gone);
    const other = connectTo(new MemoryDisk(512), { negotiationMs: 30 });
    const begun: Client = await other.client.begin();
    await new Promise((resolve) => setTimeout(resolve, 80));
    expect((await begun.ask(CMD.FLUSH)).error).toBe(0);
  });
});
