/** However the network cuts what a client sends, it is answered the same. */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { Random } from '../support/random.js';
import { type Answer, CMD, FLAG, OPT, goData, metaData, optionBytes, requestBytes, u32 } from './client.js';
import { MemoryDisk } from './memory-disk.js';
import { connectTo } from './served.js';

const SEED = Number(process.env.SEED ?? 1);

const REQUESTS: [command: number, fields: Parameters<typeof requestBytes>[2]][] = [
  [CMD.WRITE, { offset: 100, data: Buffer.from('some data') }],
  [CMD.READ, { offset: 8192, length: 20 }],
  [CMD.BLOCK_STATUS, { offset: 4096, length: 8192 }],
  [CMD.WRITE, { offset: 300, data: Buffer.from('x'), flags: FLAG.FUA }],
  [99, {}],
  [CMD.WRITE, { offset: 1 << 20, data: Buffer.from('refused') }],
  [CMD.FLUSH, {}],
];

/** A whole session, from the client's flags to its end. */
const SESSION = Buffer.concat([
  u32(3),
  optionBytes(OPT.LIST),
  optionBytes(77, Buffer.from('unknown')),
  optionBytes(OPT.STRUCTURED),
  optionBytes(OPT.SET_META, metaData()),
  optionBytes(OPT.GO, goData('', [1, 3])),
  ...REQUESTS.map(([command, fields], cookie) => requestBytes(command, cookie, fields)),
  requestBytes(CMD.DISC, 0),
]);

/** What the server says to the chunks: options as they come, answers by their requests; and what is on the disk then. */
async function said(chunks: readonly Uint8Array[]): Promise<unknown> {
  const disk = new MemoryDisk(64 << 10);
  disk.bytes.fill(9, 8192, 9000);
  const { client, ended, failures } = connectTo(disk);
  client.isStructured = true;
  const greeting = await client.take(18);
  for (const [cookie, [command, fields = {}]] of REQUESTS.entries())
    client.expectAnswer(command, BigInt(cookie), fields);
  for (const chunk of chunks) {
    client.send(chunk);
    if (chunks.length < 10) await new Promise(setImmediate);
  }
  client.stream.end();
  const options = [];
  while (options.length < 10) options.push(await client.optionAnswer());
  const answers: Answer[] = [];
  while (answers.length < REQUESTS.length) answers.push(await client.answer());
  answers.sort((a, b) => Number(a.cookie - b.cookie));
  const problem = await ended;
  const rest = await client.rest();
  const content = createHash('sha256').update(disk.bytes).digest('hex');
  return { greeting, options, answers, problem, rest, failures, content };
}

test('in one chunk, byte by byte, and in two at every place', async () => {
  const whole = (await said([SESSION])) as { answers: Answer[]; problem: unknown };
  expect(whole.problem).toBeNull();
  expect(whole.answers.map(({ error }) => error)).toEqual([0, 0, 0, 0, 22, 28, 0]);
  expect(await said([...SESSION].map((byte) => Buffer.of(byte)))).toEqual(whole);
  for (let at = 1; at < SESSION.length; at++)
    expect(await said([SESSION.subarray(0, at), SESSION.subarray(at)]), `cut at ${at}`).toEqual(whole);
});

test(`in chunks of any length (SEED=${SEED})`, async () => {
  const random = new Random(SEED);
  const whole = await said([SESSION]);
  for (let round = 0; round < 100; round++) {
    const chunks: Buffer[] = [];
    for (let at = 0; at < SESSION.length;) {
      const end = at + random.between(1, 60);
      chunks.push(SESSION.subarray(at, end));
      at = end;
    }
    expect(await said(chunks)).toEqual(whole);
  }
});
