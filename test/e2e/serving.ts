/** `qcow-compact serve` as a process of its own, for the length of a test. */
import { once } from 'node:events';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { onTestFinished } from 'vitest';
import { Client } from '../nbd/client.js';
import { type CliRun, startCli } from './cli.js';

export interface ServeEvent {
  event: string;
  [name: string]: unknown;
}

export interface Serving {
  uri: string;
  ready: ServeEvent;
  /** So far. */
  events: ServeEvent[];
  kill: (signal: NodeJS.Signals) => void;
  /** With SIGTERM. */
  stop: () => Promise<CliRun>;
  ended: Promise<CliRun>;
}

/** Resolves when it is ready. */
export async function serving(...args: string[]): Promise<Serving> {
  const { child, ended } = startCli(['serve', '--json', ...args]);
  onTestFinished(() => void child.kill('SIGKILL'));
  const events: ServeEvent[] = [];
  const lines = createInterface({ input: child.stdout! });
  lines.on('line', (line) => events.push(JSON.parse(line) as ServeEvent));
  const [first] = (await Promise.race([once(lines, 'line'), ended.then((run) => [run.stderr])])) as [string];
  if (!first.startsWith('{"event":"ready"')) throw new Error(first);
  const ready = JSON.parse(first) as ServeEvent;
  return {
    uri: ready.uri as string,
    ready,
    events,
    kill: (signal) => child.kill(signal),
    stop() {
      child.kill('SIGTERM');
      return ended;
    },
    ended,
  };
}

export function connect(path: string): Promise<Client> {
  return new Client(net.connect({ path })).begin();
}
