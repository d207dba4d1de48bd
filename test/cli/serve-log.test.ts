import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import { jsonReport, plainReport } from '../../src/cli/serve-report.js';
import { noTraffic } from '../../src/nbd/traffic.js';

/** Takes nothing until `goOn`. */
function stuck(): { stream: Writable; lines: () => string[]; goOn: () => void } {
  let text = '';
  let goOn: () => void = () => undefined;
  let isHeld = true;
  const stream = new Writable({
    decodeStrings: false,
    write(chunk: string, _, done) {
      text += chunk;
      if (isHeld) goOn = done;
      else done();
    },
  });
  const release = (): void => {
    isHeld = false;
    goOn();
  };
  return { stream, lines: () => text.split('\n').slice(0, -1), goOn: release };
}

const nowhere = new Writable({ write: (_chunk, _, done) => done() });

test('a log that nobody reads is kept so far, told how much is missing, and has its end', async () => {
  const { stream, lines, goOn } = stuck();
  const report = jsonReport(stream, nowhere);
  report.ready({ path: 'a', uri: 'b', sizeBytes: 1, readOnly: false, export: '', pid: 1 });
  for (let i = 0; i < 20_000; i++) report.clients('connected', i);
  for (let i = 0; i < 20_000; i++) report.failure({ code: 'IO', message: 'broken', exitStatus: 1 });
  expect(stream.writableLength).toBeLessThan(300_000);
  report.stopping();
  report.stopped(noTraffic());
  const ended = new Promise((resolve) => stream.end(resolve));
  goOn();
  await ended;
  const events = lines().map((line) => JSON.parse(line) as { event: string; events?: number });
  const count = (name: string): number => events.filter(({ event }) => event === name).length;
  expect(events.slice(-3).map(({ event }) => event)).toEqual(['dropped', 'stopping', 'stopped']);
  expect(count('connected') + count('failure') + events.at(-3)!.events!).toBe(40_000);
});

test('so are lines for people', () => {
  const { stream } = stuck();
  const report = plainReport('vm.qcow2', false, nowhere, stream);
  for (let i = 0; i < 20_000; i++) report.clients('disconnected', i, 'no request where one was due');
  expect(stream.writableLength).toBeLessThan(300_000);
});
