/** `serve` as a user has it: the clients of others on real images, sockets, signals and statuses. */
import fs from 'node:fs';
import net from 'node:net';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { makeCertificates } from '../nbd/certificates.js';
import { CMD, ERR } from '../nbd/client.js';
import { nbdsh, requireNbdTools, tool } from '../support/nbd-tools.js';
import { checkImage, qemuImg, qemuIo, requireQemu } from '../support/qemu.js';
import { Random } from '../support/random.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CLI, cli, startCli } from './cli.js';
import { connect, serving } from './serving.js';

const MIB = 1 << 20;
const CLEAN = { corruptions: 0, leaks: 0, errors: 0 };
const directory = temporaryDirectory();
const image = directory.path('vm.qcow2');
const socket = directory.path('vm.sock');
const raw = directory.path('content.raw');

beforeAll(() => {
  requireQemu();
  requireNbdTools();
});

beforeEach(() => {
  for (const path of [image, socket]) fs.rmSync(path, { force: true });
  qemuImg('create', '-q', '-f', 'qcow2', image, '64M');
});

/** 40 MiB: data, zeroes and nothing. */
function makeContent(): Buffer {
  const content = Buffer.alloc(40 * MIB);
  content.set(new Random(3).bytes(9 * MIB), 0);
  content.set(new Random(4).bytes(70_000), 20 * MIB + 1000);
  fs.writeFileSync(raw, content);
  return content;
}

const compare = (one: string, format: string, other: string, otherFormat: string): string =>
  qemuImg('compare', '-f', format, '-F', otherFormat, one, other);

describe('QEMU', () => {
  test('converts to it and from it, compares, and maps as it does with the image itself', async () => {
    makeContent();
    const { uri, stop } = await serving('--socket', socket, image);
    const info = JSON.parse(await tool('qemu-img', 'info', '--output=json', uri)) as Record<string, unknown>;
    expect(info).toMatchObject({ 'virtual-size': 64 * MIB, format: 'raw' });
    await tool('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', raw, uri);
    expect(await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', raw, uri)).toContain('identical');
    const back = directory.path('back.raw');
    await tool('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri, back);
    const ranges = async (...args: string[]): Promise<object[]> =>
      (JSON.parse(await tool('qemu-img', 'map', '--output=json', ...args)) as Record<string, unknown>[]).map(
        ({ start, length, data, zero }) => ({ start, length, data, zero }),
      );
    const served = await ranges(uri);
    expect(await stop()).toMatchObject({ status: 0, stderr: '' });
    expect(compare(back, 'raw', image, 'qcow2')).toContain('identical');
    expect(served).toEqual(await ranges(image));
    expect(served.length).toBeGreaterThan(3);
    expect(checkImage(image)).toEqual(CLEAN);
    expect(fs.existsSync(socket)).toBe(false);
  });

  test('writes, zeroes, discards and flushes by qemu-io as it does to an image of its own', async () => {
    const twin = directory.path('twin.qcow2');
    fs.copyFileSync(image, twin);
    const random = new Random(8);
    const commands = Array.from({ length: 40 }, (_, i) => {
      const kinds = [`write -q -P ${i + 1}`, `write -q -f -P ${i + 1}`, 'write -q -z', 'write -q -z -u'];
      // What becomes of parts of clusters that are discarded is nobody's promise.
      return i % 5 === 4
        ? `discard -q ${random.int(900) * 64}k ${random.between(1, 40) * 64}k`
        : `${kinds[i % 5]} ${random.int(60_000)}k ${random.between(1, 3000)}k`;
    });
    const { uri, stop } = await serving('--socket', socket, image);
    await tool(
      'qemu-io',
      ...['-f', 'raw', '-d', 'unmap', ...commands.flatMap((command) => ['-c', command]), '-c', 'flush', uri],
    );
    await stop();
    qemuIo(twin, commands, ['-d', 'unmap']);
    expect(compare(image, 'qcow2', twin, 'qcow2')).toContain('identical');
    expect(checkImage(image)).toEqual(CLEAN);
  });
});

describe('libnbd', () => {
  test('nbdinfo is told all that there is, and nbdcopy copies by several connections both ways', async () => {
    const content = makeContent();
    const { uri, stop } = await serving('--export', 'vm disk', '--socket', socket, image);
    const { exports } = JSON.parse(await tool('nbdinfo', '--json', uri)) as { exports: object[] };
    expect(exports).toMatchObject([
      {
        'export-name': 'vm disk',
        'export-size': 64 * MIB,
        is_read_only: false,
        ...{ can_cache: true, can_df: true, can_fast_zero: true, can_flush: true, can_fua: true },
        ...{ can_multi_conn: true, can_trim: true, can_zero: true, contexts: ['base:allocation'] },
        ...{ block_size_minimum: 1, block_size_preferred: 65536, block_size_maximum: 32 * MIB },
      },
    ]);
    const list = JSON.parse(await tool('nbdinfo', '--json', '--list', uri)) as { exports: object[] };
    expect(list.exports).toHaveLength(1);
    await tool('nbdcopy', '--connections=4', '--requests=32', '--flush', raw, uri);
    const back = directory.path('nbdcopy.raw');
    await tool('nbdcopy', '--connections=4', uri, back);
    expect(Buffer.compare(fs.readFileSync(back).subarray(0, content.length), content)).toBe(0);
    expect(await tool('nbdinfo', '--map', uri)).toMatch(/ 3 {2}hole,zero\n/);
    await stop();
    expect(checkImage(image)).toEqual(CLEAN);
  });

  test.each([
    ['cluster_size=512', [], 4096, 'done'],
    ['cluster_size=2M', [], 2 * MIB, 'done'],
    ['compat=0.10', [], 65_536, 'done'],
    ['compat=0.10', ['-b', raw, '-F', 'raw'], 65_536, 'Operation not supported'],
  ])('%s %j: the preferred size, and whether zeroes are fast', async (option, backing, preferred, zeroes) => {
    makeContent();
    qemuImg('create', '-q', '-f', 'qcow2', '-o', option, ...backing, image, '64M');
    const { uri, stop } = await serving('--socket', socket, image);
    const script = `
import sys
h.connect_uri(sys.argv[1])
try:
    h.zero(4 << 20, 4 << 20, nbd.CMD_FLAG_FAST_ZERO)
    said = "done"
except nbd.Error as error:
    said = error.string
print(h.get_block_size(nbd.SIZE_PREFERRED), said)
`;
    expect(await nbdsh(script, uri)).toMatch(new RegExp(`^${preferred} .*${zeroes}`));
    await stop();
  });

  test('its own checks of what a server says hold, in every way of asking', async () => {
    const { uri, stop } = await serving('--socket', socket, image);
    const output = await nbdsh(
      `
import sys
uri = sys.argv[1]
def connect(structured):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.add_meta_context("base:allocation")
    h.connect_uri(uri)
    h.set_strict_mode(0)
    return h
for structured in (True, False):
    h = connect(structured)
    assert h.get_structured_replies_negotiated() == structured
    data = bytes(range(256)) * 4096
    h.pwrite(data, 12345, nbd.CMD_FLAG_FUA)
    assert h.pread(len(data), 12345) == data
    h.zero(4096, 12345, nbd.CMD_FLAG_NO_HOLE)
    h.zero(4096, 65536, nbd.CMD_FLAG_FAST_ZERO)
    h.trim(65536, 1 << 20)
    h.cache(1 << 20, 0)
    h.flush()
    assert h.pread(4096, 12345) == bytes(4096)
    for call in (lambda: h.pread(2, h.get_size() - 1), lambda: h.pwrite(b"xx", h.get_size() - 1),
                 lambda: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)):
        try:
            call()
            raise SystemExit("was not refused")
        except nbd.Error as error:
            print(error.errno)
    if structured:
        chunks = []
        h.pread_structured(2 << 20, 0, lambda b, o, s, e: chunks.append((o, len(b), s)))
        assert any(s == nbd.READ_HOLE for _, _, s in chunks), chunks
        assert sum(n for _, n, _ in chunks) == 2 << 20
        chunks = []
        h.pread_structured(2 << 20, 0, lambda b, o, s, e: chunks.append((o, len(b), s)), nbd.CMD_FLAG_DF)
        assert chunks == [(0, 2 << 20, nbd.READ_DATA)], chunks
        seen = []
        h.block_status(64 << 20, 0, lambda c, o, e, err: seen.extend(e))
        assert sum(seen[0::2]) == 64 << 20, seen
    h.shutdown()
`,
      uri,
    );
    expect(output.trim().split('\n')).toEqual(['EINVAL', 'ENOSPC', 'ENOTSUP', 'EINVAL', 'ENOSPC', 'ENOTSUP']);
    await stop();
    expect(checkImage(image)).toEqual(CLEAN);
  });
});

describe('a port', () => {
  test('serves this host; TLS with certificates on both sides serves QEMU and libnbd, and nobody without', async () => {
    const pki = directory.path('pki');
    const { ca, server, client, stranger } = makeCertificates(pki);
    const plain = await serving('--port', '0', '--read-only', image);
    expect(plain.uri).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/$/);
    expect(await tool('nbdinfo', '--size', plain.uri)).toBe(`${64 * MIB}\n`);
    expect((await plain.stop()).status).toBe(0);

    const tls = ['--tls-cert', server.cert, '--tls-key', server.key, '--tls-ca', ca];
    const { uri, stop } = await serving('--port', '0', '--bind', '127.0.0.1', ...tls, image);
    const { port } = new URL(uri.replace('nbds', 'http'));
    const credentials = (name: string, { cert, key }: { cert: string; key: string }): string => {
      const dir = directory.path(name);
      fs.mkdirSync(dir);
      fs.copyFileSync(ca, `${dir}/ca-cert.pem`);
      fs.copyFileSync(cert, `${dir}/client-cert.pem`);
      fs.copyFileSync(key, `${dir}/client-key.pem`);
      return dir;
    };
    const withQemu = (dir: string): Promise<string> =>
      tool(
        ...(['qemu-img', 'info', '--object', `tls-creds-x509,id=t,endpoint=client,dir=${dir}`] as const),
        ...['--image-opts', `driver=nbd,host=127.0.0.1,port=${port},tls-creds=t`],
      );
    expect(await withQemu(credentials('known', client))).toContain('virtual size: 64 MiB');
    await expect(withQemu(credentials('stranger', stranger))).rejects.toThrow();
    await expect(tool('nbdinfo', `nbd://127.0.0.1:${port}/`)).rejects.toThrow(/replied with error/);
    const known = directory.path('known');
    expect(await tool('nbdinfo', '--size', `nbds://localhost:${port}/?tls-certificates=${known}`)).toBe(
      `${64 * MIB}\n`,
    );
    expect((await stop()).status).toBe(0);
  });
});

test('--read-only: several servers of one image, which stays as it is', async () => {
  const before = fs.readFileSync(image);
  const one = await serving('--read-only', '--socket', socket, image);
  const other = await serving('--read-only', '--socket', `${socket}2`, image);
  const client = await connect(socket);
  expect((await client.ask(CMD.WRITE, { data: new Uint8Array(512) })).error).toBe(ERR.EPERM);
  expect(one.ready).toMatchObject({ readOnly: true, sizeBytes: 64 * MIB });
  client.request(CMD.DISC);
  expect((await one.stop()).status).toBe(0);
  expect((await other.stop()).status).toBe(0);
  expect(fs.readFileSync(image).equals(before)).toBe(true);
});

describe('sockets', () => {
  test('one that a killed server left is replaced; one that is listened on, or no socket, stays', async () => {
    const killed = await serving('--socket', socket, image);
    killed.kill('SIGKILL');
    await killed.ended;
    expect(fs.existsSync(socket)).toBe(true);
    const next = await serving('--socket', socket, image);
    const copy = directory.path('copy.qcow2');
    fs.copyFileSync(image, copy);
    const second = cli(['serve', '--socket', socket, copy]);
    expect(second).toMatchObject({ status: 11, stdout: '' });
    expect(second.stderr).toMatch(
      /^qcow-compact: \S+copy\.qcow2: somebody listens on \S+vm\.sock; name another socket\n$/,
    );
    const client = await connect(socket);
    expect((await client.ask(CMD.FLUSH)).error).toBe(0);
    client.request(CMD.DISC);
    await next.stop();
    expect(fs.existsSync(socket)).toBe(false);

    const file = directory.store('file', Buffer.from('precious'));
    expect(cli(['serve', '--socket', file, image])).toMatchObject({ status: 11 });
    expect(fs.readFileSync(file, 'utf8')).toBe('precious');
    expect(cli(['serve', '--socket', directory.path('no/where'), image]).stderr).toMatch(
      /cannot listen on .*: its folder is missing/,
    );
  });

  test('a port that is taken is refused', async () => {
    const taken = net.createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => taken.once('listening', resolve));
    const { port } = taken.address() as net.AddressInfo;
    const run = await startCli(['serve', '--port', String(port), image]).ended;
    taken.close();
    expect(run).toMatchObject({ status: 11, stdout: '' });
    expect(run.stderr).toContain(
      `cannot listen on port ${port} of 127.0.0.1: address already in use (EADDRINUSE)`,
    );
  });
});

describe('refusals', () => {
  test('have the statuses of every command', async () => {
    expect(cli(['serve', '--socket', socket, directory.path('none')]).status).toBe(8);
    expect(cli(['serve', '--socket', socket, directory.store('other', Buffer.from('no image'))]).status).toBe(
      4,
    );
    const usage = cli(['serve', image]);
    expect(usage.status).toBe(64);
    expect(usage.stderr).toMatch(/^qcow-compact: where to listen is said by .*\n$/);
    expect(cli(['serve', '--port', '1', '--tls-cert', image, '--tls-key', image, image]).status).toBe(64);
    const { server } = makeCertificates(directory.path('pki'));
    const empty = directory.store('empty.pem', Buffer.alloc(0));
    const tls = ['--tls-cert', server.cert, '--tls-key', server.key, '--tls-ca', empty];
    const nobody = cli(['serve', '--port', '0', ...tls, image]);
    expect(nobody).toMatchObject({ status: 64, stdout: '' });
    expect(nobody.stderr).toContain('the file of `--tls-ca` is no certificate');
    const { stop } = await serving('--socket', socket, image);
    expect(cli(['serve', '--socket', `${socket}2`, image]).status).toBe(6);
    expect(cli([image]).status).toBe(6);
    const asJson = cli(['serve', '--json', '--socket', `${socket}2`, image]);
    expect(JSON.parse(asJson.stdout)).toMatchObject({ event: 'failed', code: 'IN_USE', exitStatus: 6 });
    await stop();
    expect(cli(['serve', '--help']).stdout).toContain('--socket <PATH>');
  });

  test('an image of the name `serve` is `./serve`, and stays an image behind an option', () => {
    const cwd = directory.path('named');
    fs.mkdirSync(cwd);
    fs.copyFileSync(image, `${cwd}/serve`);
    for (const args of [['./serve'], ['--check', 'serve'], ['--', 'serve']])
      expect(cli(args, { cwd })).toMatchObject({ status: 0 });
    expect(cli(['serve'], { cwd }).status).toBe(64);
  });
});

describe('signals', () => {
  test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    '%s with requests under way: all answered, flushed, and 0',
    async (signal) => {
      const server = await serving('--socket', socket, image);
      const clients = await Promise.all([1, 2, 3].map(() => connect(socket)));
      const data = new Random(9).bytes(300_000);
      for (const [i, client] of clients.entries())
        for (let n = 0; n < 20; n++) client.request(CMD.WRITE, { offset: (i * 20 + n) * MIB, data });
      await clients[0]!.answer();
      server.kill(signal);
      const done = new Set<number>();
      for (const [i, client] of clients.entries()) {
        const first = i === 0 ? 1 : 0;
        try {
          for (let n = first; n < 20; n++) {
            const { cookie, error } = await client.answer();
            expect([0, ERR.ESHUTDOWN]).toContain(error);
            if (error === 0) done.add(i * 20 + Number(cookie) - 1);
          }
        } catch {
          // The connection was closed before the server had read the rest.
        }
        client.stream.end();
      }
      expect(await server.ended).toMatchObject({ status: 0, signal: null, stderr: '' });
      expect(server.events.map(({ event }) => event).filter((event) => event.startsWith('stop'))).toEqual([
        'stopping',
        'stopped',
      ]);
      expect(checkImage(image)).toEqual(CLEAN);
      qemuImg('convert', '-f', 'qcow2', '-O', 'raw', image, raw);
      const content = fs.readFileSync(raw);
      expect(done.size).toBeGreaterThan(0);
      for (const place of done) {
        const there = content.subarray(place * MIB, place * MIB + data.length);
        expect(Buffer.compare(there, data), `at ${place} MiB`).toBe(0);
      }
    },
  );

  test('SIGTERM ends it where a folder has come to the path of its socket', async () => {
    const server = await serving('--socket', socket, image);
    const client = await connect(socket);
    fs.rmSync(socket);
    fs.mkdirSync(socket);
    onTestFinished(() => fs.rmSync(socket, { recursive: true }));
    client.stream.on('end', () => client.stream.end());
    expect(await server.stop()).toMatchObject({ status: 0, signal: null, stderr: '' });
    expect(fs.statSync(socket).isDirectory()).toBe(true);
  });

  test('without --json it says where it serves, and what it did; on a terminal meanwhile too', () => {
    const words = [process.execPath, CLI, 'serve', '--socket', socket, image]
      .map((word) => `'${word}'`)
      .join(' ');
    const { CI: _, ...env } = process.env;
    const { stdout } = spawnSync(
      'script',
      ['-qec', `stty cols 120 rows 24; timeout --foreground -s TERM 2 ${words}`, '/dev/null'],
      { encoding: 'utf8', timeout: 30_000, env: { ...env, TERM: 'xterm' } },
    );
    expect(stdout).toMatch(/vm\.qcow2: serving 64\.0 MiB at nbd\+unix:\/\/\/\?socket=\S+vm\.sock/);
    expect(stdout).toContain('vm.qcow2: 0 clients, 0 requests, 0 B read, 0 B written');
    expect(stdout).toContain('vm.qcow2: stopped after 0 requests, 0 B read, 0 B written');
  });
});

test('a log that nobody reads does not keep it from its end', async () => {
  const child = spawn(process.execPath, [CLI, 'serve', '--json', '--socket', socket, image], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  // Nothing of it is read, beyond what a pipe takes.
  for (let tries = 0; tries < 500 && !fs.existsSync(socket); tries++) await sleep(20);
  const client = await connect(socket);
  for (let i = 0; i < 800; i++) {
    child.kill('SIGUSR1');
    await client.ask(CMD.FLUSH);
  }
  client.request(CMD.DISC);
  child.kill('SIGTERM');
  const [status] = (await once(child, 'exit')) as [number];
  expect(status).toBe(0);
  expect(checkImage(image)).toEqual(CLEAN);
});
