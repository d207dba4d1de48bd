/** TLS begins within a connection; before it nothing is said, and nothing that was said counts. */
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import tls from 'node:tls';
import { beforeAll, describe, expect, test } from 'vitest';
import { checkTls, type TlsFiles } from '../../src/nbd/tls.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { type Identity, makeCertificates } from './certificates.js';
import { Client, CMD, Gone, OPT, REP, goData, metaData, optionBytes } from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { connectTo, serveAt } from './served.js';

const MIB = 1 << 20;
const directory = temporaryDirectory();
let made: ReturnType<typeof makeCertificates>;
let sockets = 0;

beforeAll(() => {
  made = makeCertificates(directory.path('pki'));
});

const pem = ({ cert, key }: Identity): { cert: Buffer; key: Buffer } => ({
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
});
const ca = (): Buffer => fs.readFileSync(made.ca);

async function serve(disk: MemoryDisk, { verifies = false } = {}) {
  const path = directory.path(`${sockets++}.sock`);
  const files: TlsFiles = { ...pem(made.server), ...(verifies && { ca: ca() }) };
  const served = await serveAt(path, disk, { tls: files });
  const plain = async (): Promise<Client> => {
    const client = new Client(net.connect({ path }));
    await client.greet();
    return client;
  };
  return { ...served, path, plain };
}

/** As a client does that wants TLS, once `meanwhile` is done. Rejects where the handshake fails. */
async function secure(
  path: string,
  options: tls.ConnectionOptions = {},
  meanwhile: () => Promise<void> | void = () => undefined,
): Promise<Client> {
  const socket = net.connect({ path });
  const before = new Client(socket);
  await before.greet();
  await meanwhile();
  const [answer] = await before.option(OPT.STARTTLS);
  expect(answer!.type).toBe(REP.ACK);
  socket.removeAllListeners('data');
  const within = tls.connect({ socket, ca: ca(), host: 'localhost', ...options });
  await once(within, 'secureConnect');
  return new Client(within);
}

async function goWithin(client: Client): Promise<void> {
  await client.option(OPT.STRUCTURED);
  expect((await client.option(OPT.GO, goData())).at(-1)!.type).toBe(REP.ACK);
}

test('without it every option is refused but STARTTLS and ABORT, and EXPORT_NAME cuts off', async () => {
  const { plain, problems } = await serve(new MemoryDisk(512));
  const client = await plain();
  for (const [option, data] of [
    [OPT.LIST],
    [OPT.STRUCTURED],
    [OPT.INFO, goData()],
    [OPT.GO, goData()],
    [OPT.SET_META, metaData()],
    [99],
  ] as const) {
    expect((await client.option(option, data)).map(({ type }) => type)).toEqual([REP.TLS_REQD]);
  }
  expect((await client.option(OPT.ABORT))[0]!.type).toBe(REP.ACK);
  client.stream.end();
  const hasty = await plain();
  hasty.send(optionBytes(OPT.EXPORT_NAME));
  await expect(hasty.take(1)).rejects.toThrow(Gone);
  await expect
    .poll(() => problems.map((problem) => problem?.message))
    .toContain('an export was chosen without TLS');
});

test('within it all is as without: much data both ways, and again no TLS', async () => {
  const disk = new MemoryDisk(4 * MIB);
  const { path, server } = await serve(disk);
  const client = await secure(path);
  expect((await client.option(OPT.STARTTLS))[0]!.type).toBe(REP.INVALID);
  await goWithin(client);
  const data = new Random(3).bytes(4 * MIB);
  expect((await client.ask(CMD.WRITE, { data })).error).toBe(0);
  for (let i = 0; i < 5; i++) client.request(CMD.READ, { offset: i, length: 3 * MIB });
  for (let i = 0; i < 5; i++) {
    const { data: read, cookie } = await client.answer();
    const offset = Number(cookie) - 2;
    expect(Buffer.compare(read!, data.subarray(offset, offset + 3 * MIB))).toBe(0);
  }
  client.request(CMD.DISC);
  await expect.poll(() => server.traffic.clients).toBe(0);
  expect(Buffer.compare(disk.bytes, data)).toBe(0);
});

test('what was agreed on before it does not count', async () => {
  const { path } = await serve(new MemoryDisk(512));
  const client = await secure(path);
  expect((await client.option(OPT.SET_META, metaData()))[0]!.type).toBe(REP.INVALID);
});

describe('what would count as said within it', () => {
  test.each([
    ['an option in the same chunk', optionBytes(OPT.LIST)],
    ['the beginning of one', Buffer.from('I')],
  ])('%s: cut off', async (_, bytes) => {
    const { plain, problems } = await serve(new MemoryDisk(512));
    const client = await plain();
    client.send(Buffer.concat([optionBytes(OPT.STARTTLS), bytes]));
    await expect(client.take(1)).rejects.toThrow(Gone);
    expect(problems[0]?.message).toBe('bytes came before TLS had begun');
  });

  test('an option where a handshake is due: cut off', async () => {
    const { plain, problems, server } = await serve(new MemoryDisk(512));
    const client = await plain();
    await client.option(OPT.STARTTLS);
    client.send(optionBytes(OPT.LIST));
    await client.rest();
    await expect.poll(() => server.connections).toBe(0);
    expect(problems[0]?.message).toMatch(/^TLS failed: /);
  });

  test('a client that goes instead is gone', async () => {
    const { plain, server } = await serve(new MemoryDisk(512));
    const client = await plain();
    await client.option(OPT.STARTTLS);
    client.stream.destroy();
    await expect.poll(() => server.connections).toBe(0);
  });

  test('whoever does not come to it is cut off', async () => {
    const files = pem(made.server);
    const { client, ended } = connectTo(new MemoryDisk(512), { tls: files, handshakeMs: 30 });
    await client.greet();
    expect(await ended).toBeNull();
    await expect(client.take(1)).rejects.toThrow(Gone);
  });
});

describe('with an authority for clients', () => {
  test('one that it has signed is let in', async () => {
    const { path } = await serve(new MemoryDisk(512), { verifies: true });
    const client = await secure(path, pem(made.client));
    await goWithin(client);
    expect((await client.ask(CMD.FLUSH)).error).toBe(0);
  });

  test.each(['none', 'that of a stranger'])(
    'one with no certificate or another (%s) is not',
    async (which) => {
      const { path, server, problems } = await serve(new MemoryDisk(512), { verifies: true });
      const said = async (): Promise<void> => {
        const client = await secure(path, which === 'none' ? {} : pem(made.stranger));
        await client.option(OPT.LIST);
      };
      await expect(said()).rejects.toThrow();
      await expect.poll(() => server.connections).toBe(0);
      expect(problems[0]?.message).toMatch(/^TLS failed: /);
    },
  );
});

test('who has spoken TLS is cut off for those who come behind those who have not', async () => {
  const { path, plain } = await serve(new MemoryDisk(512));
  const silent: Client[] = [];
  // All the room that there is at the door.
  const client = await secure(path, {}, async () => {
    for (let i = 0; i < 31; i++) silent.push(await plain());
  });
  await client.option(OPT.LIST);
  await plain();
  expect(await silent[0]!.rest()).toHaveLength(0);
  await goWithin(client);
  expect((await client.ask(CMD.FLUSH)).error).toBe(0);
});

test('versions before 1.2 are refused', async () => {
  const { path } = await serve(new MemoryDisk(512));
  await expect(secure(path, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1' })).rejects.toThrow();
});

test('a key of another certificate is refused before anybody is served', () => {
  const files = { cert: fs.readFileSync(made.server.cert), key: fs.readFileSync(made.client.key) };
  expect(() => checkTls(files)).toThrow();
  expect(() => checkTls(pem(made.server))).not.toThrow();
});
