/** What a server says of itself: lines for people, or objects of JSON, one a line (docs/serve.md). */
import type { Traffic } from '../nbd/traffic.js';
import type { Failure } from './outcome.js';
import { printable } from './printable.js';
import { type StatusFacts, statusLines, trafficLine } from './serve-status.js';
import { humanBytes } from './units.js';

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

type Write = (text: string) => void;

/** Of `--json`; errors go to stderr too, as with every command. */
export function jsonReport(stdout: Write, stderr: Write): ServeReport {
  const log = (event: string, facts: object): void =>
    stdout(`${JSON.stringify({ event, time: new Date().toISOString(), ...facts })}\n`);
  return {
    ready: (facts) => log('ready', facts),
    clients: (event, clients, problem) => log(event, { clients, ...(problem !== undefined && { problem }) }),
    failure: ({ code, message }) => log('failure', { code, message }),
    status: (facts) => log('status', facts),
    stopping: () => log('stopping', {}),
    stopped: (traffic) => log('stopped', totalsOf(traffic)),
    failed(failure, path) {
      log('failed', { ...failure });
      stderr(errorLine(failure, path));
    },
  };
}

export function plainReport(path: string, quiet: boolean, stdout: Write, stderr: Write): ServeReport {
  const name = printable(path);
  const say: Write = quiet ? () => undefined : stdout;
  return {
    ready: ({ sizeBytes, uri, readOnly }) =>
      say(
        `${name}: serving ${humanBytes(sizeBytes)}${readOnly ? ', read-only,' : ''} at ${printable(uri)}\n`,
      ),
    clients(_event, _count, problem) {
      if (problem !== undefined && !quiet) stderr(`${name}: a client was cut off: ${printable(problem)}\n`);
    },
    failure: (failure) => stderr(errorLine(failure, path)),
    // Whoever asks wants it in spite of `--quiet`.
    status: (facts) => stdout(`${statusLines(facts)}\n`),
    stopping: () => quiet || stderr('qcow-compact: stopping; what is under way is answered and flushed\n'),
    stopped: (traffic) => say(`${name}: stopped after ${trafficLine(traffic)}\n`),
    failed: (failure, failedPath) => stderr(errorLine(failure, failedPath)),
  };
}

function totalsOf({ requests, bytesRead, bytesWritten }: Traffic): object {
  return { requests, bytesRead, bytesWritten };
}

function errorLine({ message }: Failure, path: string | null): string {
  return `qcow-compact: ${path === null ? '' : `${printable(path)}: `}${printable(message)}\n`;
}
