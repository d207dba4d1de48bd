/** Sockets of servers that come and go at one path. */
import fs from 'node:fs';
import net from 'node:net';
import { dirname } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Listening, listenAt } from '../../src/cli/serve-place.js';
import { QcowError } from '../../src/errors.js';
import { NbdServer } from '../../src/nbd/server.js';
import { Client } from '../nbd/client.js';
import { MemoryDisk } from '../nbd/memory-disk.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

const directory = temporaryDirectory();
let folders = 0;

function freshSocket(): string {
  const folder = directory.path(String(folders++));
  fs.mkdirSync(folder);
  return `${folder}/vm.sock`;
}

function serverOf(name: string): NbdServer {
  const server = new NbdServer({ served: { name, disk: new MemoryDisk(512) } });
  onTestFinished(() => server.stop(100));
  return server;
}

/** As a server leaves it that was killed. */
async function leaveStale(socket: string): Promise<void> {
  const dead = net.createServer().listen({ path: `${socket}2` });
  await new Promise((resolve) => dead.once('listening', resolve));
  fs.linkSync(`${socket}2`, socket);
  await new Promise((resolve) => dead.close(resolve));
}

async function nameAt(path: string): Promise<string> {
  const client = new Client(net.connect({ path }));
  await client.greet();
  const [answer] = await client.option(3);
  client.stream.destroy();
  return answer!.data.toString('utf8', 4);
}

describe('servers that begin at one path', () => {
  test('at the same time, where a dead one left its socket: one of them listens', async () => {
    for (let round = 0; round < 10; round++) {
      const socket = freshSocket();
      await leaveStale(socket);
      const names = ['a', 'b', 'c', 'd', 'e', 'f'];
      const results = await Promise.allSettled(names.map((name) => listenAt(serverOf(name), { socket })));
      const ready = names.filter((_, i) => results[i]!.status === 'fulfilled');
      expect(ready).toHaveLength(1);
      for (const result of results)
        if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'CANNOT_LISTEN' });
      expect(await nameAt(socket)).toBe(ready[0]);
    }
  });

  test('after the socket of the first was removed: the end of the first leaves that of the second', async () => {
    const socket = freshSocket();
    const begin = (name: string): Promise<Listening> => listenAt(serverOf(name), { socket });
    const first = await begin('first');
    fs.rmSync(socket);
    const second = await begin('second');
    first.leave();
    expect(await nameAt(socket)).toBe('second');
    expect(fs.readdirSync(socket.replace('/vm.sock', ''))).toEqual(['vm.sock']);
    second.leave();
    expect(fs.readdirSync(socket.replace('/vm.sock', ''))).toEqual([]);
  });
});

describe('what has come to the path of a server stays there when it ends', () => {
  const end = async (change: (socket: string) => void): Promise<string> => {
    const socket = freshSocket();
    const server = serverOf('');
    const { leave } = await listenAt(server, { socket });
    change(socket);
    leave();
    // Which a server that still listens refuses.
    await server.listen({ port: 0, host: '127.0.0.1' });
    return socket;
  };

  test('a folder', async () => {
    const socket = await end((path) => {
      fs.rmSync(path);
      fs.mkdirSync(path);
      fs.writeFileSync(`${path}/file`, '');
    });
    expect(fs.readdirSync(dirname(socket))).toEqual(['vm.sock']);
    expect(fs.readdirSync(socket)).toEqual(['file']);
  });

  test('a file, and a link that leads nowhere', async () => {
    const file = await end((path) => {
      fs.rmSync(path);
      fs.writeFileSync(path, 'own');
    });
    expect(fs.readFileSync(file, 'utf8')).toBe('own');
    const link = await end((path) => {
      fs.rmSync(path);
      fs.symlinkSync('nowhere', path);
    });
    expect(fs.readdirSync(dirname(link))).toEqual(['vm.sock']);
  });

  test('even where it cannot be looked at', async () => {
    const socket = await end((path) => {
      fs.renameSync(dirname(path), `${dirname(path)}-before`);
      fs.writeFileSync(dirname(path), 'a file');
    });
    expect(fs.readFileSync(dirname(socket), 'utf8')).toBe('a file');
  });
});

test('a folder that is missing is named so, whatever the host says', async () => {
  const socket = directory.path('no/where.sock');
  const refused = listenAt(serverOf(''), { socket });
  await expect(refused).rejects.toThrow(QcowError);
  await expect(refused).rejects.toThrow(`cannot listen on ${socket}: its folder is missing`);
});
