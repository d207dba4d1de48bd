/** Commands to the server itself, among those to the disk: byte by byte, and by the client that the command line has. */
import net from 'node:net';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Control, Facts } from '../../src/nbd/control.js';
import { askServer } from '../../src/nbd/control-client.js';
import { Door } from '../../src/nbd/door.js';
import { Input } from '../../src/nbd/input.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { CMD, Gone, OPT, REP, goData, optionBytes, u32 } from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { pair } from './pair.js';
import { connectTo, serveAt } from './served.js';

const CONTROL = 0x71636f77;
const FACTS = 0x71636f77;
const FAILED = 0x80000000 + 0x71636f77;
const directory = temporaryDirectory();

/** `now` waits until it is told to go on. */
class HeldControl implements Control {
  readonly asked: string[] = [];
  tell: (facts: Facts) => boolean = () => true;
  finish: (facts: Facts) => void = () => undefined;
  fail: (error: Error) => void = () => undefined;
  readonly #begun: (() => void)[] = [];

  /** `now` is under way. */
  begun(): Promise<void> {
    return new Promise((resolve) => this.#begun.push(resolve));
  }

  run(command: string, tell: (facts: Facts) => boolean): Promise<Facts> {
    this.asked.push(command);
    if (command === 'status') return Promise.resolve({ junkBytes: 7 });
    this.tell = tell;
    for (const resolve of this.#begun.splice(0)) resolve();
    return new Promise((resolve, reject) => {
      this.finish = resolve;
      this.fail = reject;
    });
  }

  failureFacts(error: unknown): Facts {
    return { message: (error as Error).message };
  }
}

const factsOf = (data: Buffer): unknown => JSON.parse(data.toString());

describe('the option', () => {
  test('tells the status, and the negotiation goes on', async () => {
    const control = new HeldControl();
    const { client } = connectTo(new MemoryDisk(4096), { control });
    await client.greet();
    const answers = await client.option(CONTROL, Buffer.from('status'));
    expect(answers.map(({ type }) => type)).toEqual([FACTS, REP.ACK]);
    expect(factsOf(answers[0]!.data)).toEqual({ junkBytes: 7 });
    expect((await client.option(OPT.GO, goData())).at(-1)!.type).toBe(REP.ACK);
    expect((await client.ask(CMD.READ, { length: 16 })).error).toBe(0);
  });

  test.each(['', 'stop', 'STATUS', 'status ', 'a'.repeat(5000)])('is refused for `%s`', async (command) => {
    const control = new HeldControl();
    const { client } = connectTo(new MemoryDisk(4096), { control });
    await client.greet();
    expect(await client.option(CONTROL, Buffer.from(command))).toMatchObject([{ type: REP.INVALID }]);
    expect(control.asked).toEqual([]);
  });

  test('is unsupported where there is nothing to command', async () => {
    const { client } = connectTo(new MemoryDisk(4096));
    await client.greet();
    expect(await client.option(CONTROL, Buffer.from('status'))).toMatchObject([{ type: REP.UNSUP }]);
  });

  test('tells how far it is, takes longer than a negotiation may, and is no client meanwhile', async () => {
    const control = new HeldControl();
    let clients = 0;
    const onBegin = (): void => void clients++;
    const { client } = connectTo(new MemoryDisk(4096), { control, onBegin, negotiationMs: 30 });
    await client.greet();
    client.send(optionBytes(CONTROL, Buffer.from('now')));
    await control.begun();
    await new Promise((resolve) => setTimeout(resolve, 100));
    control.tell({ part: 1 });
    expect(factsOf((await client.optionAnswer()).data)).toEqual({ part: 1 });
    control.finish({ bytesReclaimed: 3 });
    expect(factsOf((await client.optionAnswer()).data)).toEqual({ bytesReclaimed: 3 });
    expect((await client.optionAnswer()).type).toBe(REP.ACK);
    expect(clients).toBe(0);
    await client.option(OPT.GO, goData());
    expect(clients).toBe(1);
  });

  test('says what failed', async () => {
    const control = new HeldControl();
    const { client } = connectTo(new MemoryDisk(4096), { control });
    await client.greet();
    client.send(optionBytes(CONTROL, Buffer.from('now')));
    await control.begun();
    control.fail(new Error('no room'));
    const { type, data } = await client.optionAnswer();
    expect(type).toBe(FAILED);
    expect(factsOf(data)).toEqual({ message: 'no room' });
    expect((await client.option(OPT.ABORT)).at(-1)!.type).toBe(REP.ACK);
  });

  test('who does not read is told less, and the end of it', async () => {
    const control = new HeldControl();
    const { client } = connectTo(new MemoryDisk(4096), { control });
    await client.greet();
    client.send(optionBytes(CONTROL, Buffer.from('now')));
    await control.begun();
    for (let i = 0; i < 10_000; i++) control.tell({ i });
    control.finish({ end: true });
    const told: unknown[] = [];
    for (;;) {
      const { type, data } = await client.optionAnswer();
      if (type === REP.ACK) break;
      told.push(factsOf(data));
    }
    expect(told).toEqual([{ i: 0 }, { end: true }]);
  });

  test.each([
    ['goes', (stream: { destroy: () => void }) => stream.destroy()],
    ['is cut off, since the server ends', null],
  ])('a client that %s in the middle is waited for no longer', async (_, go) => {
    const control = new HeldControl();
    const { client, connection, ended, failures } = connectTo(new MemoryDisk(4096), { control });
    await client.greet();
    client.send(optionBytes(CONTROL, Buffer.from('now')));
    await control.begun();
    if (go === null) connection.stop();
    else go(client.stream);
    expect(await ended).toBeNull();
    expect(control.tell({ part: 1 })).toBe(false);
    // What it came to is nobody's any more.
    control.fail(new Error('no room'));
    await new Promise((resolve) => setImmediate(resolve));
    expect(failures).toEqual([]);
  });

  test('only within TLS, where there is TLS', async () => {
    const control = new HeldControl();
    const tls = { cert: Buffer.alloc(0), key: Buffer.alloc(0) };
    const { client } = connectTo(new MemoryDisk(4096), { control, tls });
    await client.greet();
    expect(await client.option(CONTROL, Buffer.from('status'))).toMatchObject([{ type: REP.TLS_REQD }]);
    expect(control.asked).toEqual([]);
  });
});

describe('who commands', () => {
  const now = optionBytes(CONTROL, Buffer.from('now'));

  test('is one of 16, whatever their time; beyond that commands are refused, and nobody is kept out', async () => {
    const control = new HeldControl();
    const path = directory.path('many.sock');
    const { connect } = await serveAt(path, new MemoryDisk(4096), { control });
    const commanders = [];
    for (let i = 0; i < 16; i++) {
      commanders.push(connect());
      await commanders[i]!.greet();
      const begun = control.begun();
      commanders[i]!.send(now);
      await begun;
    }
    // More than there is room for at the door.
    const refused = [];
    for (let i = 0; i < 80; i++) {
      refused.push(connect());
      await refused[i]!.greet();
      refused[i]!.send(now);
      expect(await refused[i]!.optionAnswer()).toMatchObject({ type: REP.POLICY });
    }
    await expect(askServer({ path }, 'vm', 'status', () => undefined)).rejects.toMatchObject({
      code: 'NO_SERVER',
      message: /it has as many commands under way as it takes/,
    });
    expect(control.asked).toHaveLength(16);
    // One that was refused may go on.
    await refused.at(-1)!.option(OPT.GO, goData());
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect().begin()));
    for (const client of [refused.at(-1)!, ...clients])
      expect((await client.ask(CMD.READ, { length: 16 })).error).toBe(0);

    // The end of one, and that of its connection, make room again.
    control.finish({});
    expect((await commanders[15]!.optionAnswer()).type).toBe(FACTS);
    expect((await commanders[15]!.optionAnswer()).type).toBe(REP.ACK);
    expect((await commanders[15]!.option(CONTROL, Buffer.from('status')))[0]!.type).toBe(FACTS);
    const begun = control.begun();
    commanders[15]!.send(now);
    await begun;
    commanders[0]!.stream.destroy();
    await expect
      .poll(() => askServer({ path }, 'vm', 'status', () => undefined).catch(() => null))
      .toEqual({ facts: { junkBytes: 7 }, failure: null });
  });

  test('has to make room for the next again, once the command is done', async () => {
    const door = new Door(1, 1, 1);
    const { client, ended } = connectTo(new MemoryDisk(4096), { control: new HeldControl(), door });
    await client.greet();
    await client.option(CONTROL, Buffer.from('status'));
    door.arrive({ cut: () => undefined });
    expect(await ended).toBeNull();
    await expect(client.take(1)).rejects.toThrow(Gone);
  });

  test('leaves nothing behind, command by command, and is cut off after a thousand', async () => {
    let listeners = 0;
    const original = Reflect.get(Input.prototype, 'whenEnded');
    const spy = vi.spyOn(Input.prototype, 'whenEnded').mockImplementation(function (this: Input, heard) {
      listeners++;
      const forget = original.call(this, heard);
      return () => {
        listeners--;
        forget();
      };
    });
    onTestFinished(() => spy.mockRestore());
    const { client, ended } = connectTo(new MemoryDisk(4096), { control: new HeldControl() });
    await client.greet();
    const status = (): Promise<unknown> => client.option(CONTROL, Buffer.from('status'));
    for (let i = 0; i < 1000; i++) await status();
    expect([spy.mock.calls.length, listeners]).toEqual([1000, 0]);
    await expect(status()).rejects.toThrow(Gone);
    expect((await ended)?.message).toBe('too many commands on one connection');
  });

  test('hears of an end as long as it listens, and of one that was before', () => {
    const [stream] = pair();
    const input = new Input(stream);
    const heard: string[] = [];
    input.whenEnded(() => heard.push('kept'));
    input.whenEnded(() => heard.push('forgotten'))();
    input.end();
    input.end();
    input.whenEnded(() => heard.push('late'));
    expect(heard).toEqual(['kept', 'late']);
  });
});

describe('the asking side', () => {
  const path = directory.path('vm.sock');

  test('hears what is told, and the end', async () => {
    const control = new HeldControl();
    await serveAt(path, new MemoryDisk(4096), { control });
    const status = await askServer({ path }, 'vm', 'status', () => undefined);
    expect(status).toEqual({ facts: { junkBytes: 7 }, failure: null });
    const told: Facts[] = [];
    const asked = askServer({ path }, 'vm', 'now', (facts) => told.push(facts));
    await control.begun();
    control.tell({ part: 1 });
    control.finish({ bytesReclaimed: 3 });
    expect(await asked).toEqual({ facts: { bytesReclaimed: 3 }, failure: null });
    expect(told).toEqual([{ part: 1 }, { bytesReclaimed: 3 }]);
    const failing = askServer({ path }, 'vm', 'now', () => undefined);
    await control.begun();
    control.fail(new Error('no room'));
    expect(await failing).toEqual({ facts: null, failure: { message: 'no room' } });
  });

  test('the server ends in the middle', async () => {
    const control = new HeldControl();
    const { server } = await serveAt(path, new MemoryDisk(4096), { control });
    const asked = askServer({ path }, 'vm', 'now', () => undefined);
    await control.begun();
    const stopped = server.stop();
    await expect(asked).rejects.toMatchObject({ code: 'NO_SERVER', message: /vm: it ended before/ });
    await stopped;
  });

  test('nobody is there', async () => {
    const none = askServer({ path: directory.path('none') }, 'none', 'status', () => undefined);
    await expect(none).rejects.toMatchObject({
      code: 'NO_SERVER',
      exitStatus: 12,
      message: /at none: no such file or directory \(ENOENT\); is `qcow-compact serve` running\?$/,
    });
  });

  const GREETING = Buffer.from('NBDMAGICIHAVEOPT\0\x01', 'latin1');
  const reply = (type: number, data = '', option = CONTROL): Buffer =>
    Buffer.concat([
      Buffer.from('0003e889045565a9', 'hex'),
      ...[option, type, Buffer.byteLength(data)].map(u32),
      Buffer.from(data),
    ]);

  test.each<[string, Buffer[], RegExp]>([
    ['no NBD', [Buffer.from('SSH-2.0-OpenSSH_9.2 and so on\r\n')], /no NBD server/],
    ['NBD of the old style', [Buffer.from('NBDMAGICIHAVEOPT\0\0', 'latin1')], /no NBD server/],
    ['an end before the greeting', [GREETING.subarray(0, 10)], /nobody answers there/],
    ['another server', [GREETING, reply(REP.UNSUP)], /another NBD server, or an older one/],
    ['a server that wants TLS', [GREETING, reply(REP.TLS_REQD)], /speaks TLS only; send SIGUSR1/],
    ['a server that ends', [GREETING, reply(REP.SHUTDOWN)], /about to end/],
    ['an end without facts', [GREETING, reply(REP.ACK)], /another NBD server/],
    ['an end in the middle', [GREETING, reply(FACTS, '{"a":1}').subarray(0, 25)], /ended before/],
    ['facts that are none', [GREETING, reply(FACTS, '{"a":')], /cannot be read/],
    ['an answer to something else', [GREETING, reply(FACTS, '{}', 7)], /not of the NBD protocol/],
    ['more than facts take', [GREETING, reply(FACTS).fill(0xff, 16)], /not of the NBD protocol/],
    ['noise', [GREETING, Buffer.alloc(64, 0xaa)], /not of the NBD protocol/],
  ])('what answers is %s', async (_, parts, message) => {
    const peer = net.createServer((socket) => {
      socket.on('error', () => undefined);
      for (const part of parts) socket.write(part);
      socket.end();
    });
    const at = directory.path('peer.sock');
    await new Promise<void>((resolve) => peer.listen({ path: at }, resolve));
    onTestFinished(() => void peer.close());
    const asked = askServer({ path: at }, 'peer', 'status', () => undefined);
    await expect(asked).rejects.toMatchObject({ code: 'NO_SERVER', message });
  });
});

test('the connection of who asks is cut like any other when its time is over', async () => {
  const control = new HeldControl();
  const { client } = connectTo(new MemoryDisk(4096), { control, negotiationMs: 50 });
  await client.greet();
  await client.option(CONTROL, Buffer.from('status'));
  await expect(client.take(1)).rejects.toThrow(Gone);
});
