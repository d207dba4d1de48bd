/** What a server says of itself: lines for people, or objects of JSON, one a line (docs/serve.md). */
import type { Writable } from 'node:stream';
import type { Traffic } from '../nbd/traffic.js';
import type { Failure } from './outcome.js';
import { printable } from './printable.js';
import { ServeLog } from './serve-log.js';
import { type StatusFacts, statusLines, trafficLine } from './serve-status.js';
import { countOf, humanBytes } from './units.js';

/** What is used of stdout and stderr. */
type Stream = Pick<Writable, 'write' | 'writableLength'>;

export interface Ready {
  path: string;
  uri: string;
  sizeBytes: number;
  readOnly: boolean;
  export: string;
  pid: number;
}

export interface ServeReport {
  ready(facts: Ready): void;
  clients(event: 'connected' | 'disconnected', count: number, problem?: string): void;
  /** The disk failed a request. */
  failure(failure: Failure): void;
  /** Somebody wants to know. */
  status(facts: StatusFacts): void;
  stopping(): void;
  stopped(traffic: Traffic): void;
  /** The server cannot begin, or cannot end as it should. */
  failed(failure: Failure, path: string | null): void;
}

/** Of `--json`; errors go to stderr too, as with every command. */
export function jsonReport(stdout: Stream, stderr: Stream): ServeReport {
  const line = (event: string, facts: object): string =>
    `${JSON.stringify({ event, time: new Date().toISOString(), ...facts })}\n`;
  const lines = new ServeLog(stdout, (count) => line('dropped', { events: count }));
  const log = (event: string, facts: object): void => lines.write(line(event, facts));
  const logVital = (event: string, facts: object): void => lines.write(line(event, facts), true);
  return {
    ready: (facts) => logVital('ready', facts),
    clients: (event, clients, problem) => log(event, { clients, ...(problem !== undefined && { problem }) }),
    failure: ({ code, message }) => log('failure', { code, message }),
    status: (facts) => log('status', facts),
    stopping: () => logVital('stopping', {}),
    stopped: (traffic) => logVital('stopped', totalsOf(traffic)),
    failed(failure, path) {
      logVital('failed', { ...failure });
      stderr.write(errorLine(failure, path));
    },
  };
}

export function plainReport(path: string, quiet: boolean, stdout: Stream, stderr: Stream): ServeReport {
  const name = printable(path);
  const log = new ServeLog(stderr, (count) => `${name}: ${countOf(count, 'line')} dropped\n`);
  const say = (text: string): unknown => quiet || stdout.write(text);
  return {
    ready: ({ sizeBytes, uri, readOnly }) =>
      say(
        `${name}: serving ${humanBytes(sizeBytes)}${readOnly ? ', read-only,' : ''} at ${printable(uri)}\n`,
      ),
    clients(_event, _count, problem) {
      if (problem !== undefined && !quiet)
        log.write(`${name}: a client was cut off: ${printable(problem)}\n`);
    },
    failure: (failure) => log.write(errorLine(failure, path)),
    // Whoever asks wants it in spite of `--quiet`.
    status: (facts) => stdout.write(`${statusLines(facts)}\n`),
    stopping: () =>
      quiet || log.write('qcow-compact: stopping; what is under way is answered and flushed\n', true),
    stopped: (traffic) => say(`${name}: stopped after ${trafficLine(traffic)}\n`),
    failed: (failure, failedPath) => log.write(errorLine(failure, failedPath), true),
  };
}

function totalsOf({ requests, bytesRead, bytesWritten }: Traffic): object {
  return { requests, bytesRead, bytesWritten };
}

function errorLine({ message }: Failure, path: string | null): string {
  return `qcow-compact: ${path === null ? '' : `${printable(path)}: `}${printable(message)}\n`;
}
