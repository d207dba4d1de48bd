/** `qcow-compact serve`: an image as a disk for a VM, until a signal ends it. */
import { X509Certificate } from 'node:crypto';
import fs from 'node:fs';
import { inspect } from 'node:util';
import { systemReason } from '../system-error.js';
import { Qcow2Disk } from '../disk/qcow2-disk.js';
import { NbdServer } from '../nbd/server.js';
import { checkTls, type TlsFiles } from '../nbd/tls.js';
import { canDraw } from './progress.js';
import { readServeLine, type ServeRequest, type TlsPaths } from './serve-arguments.js';
import { controlOf, failureOf } from './serve-control.js';
import { listenAt, uriOf } from './serve-place.js';
import { jsonReport, plainReport, type ServeReport } from './serve-report.js';
import { type StatusFacts, statusFacts } from './serve-status.js';
import { SERVER_SIGNALS, watchStops } from './stops.js';
import { UsageError } from './usage-error.js';

/** The exit status; all errors are reported here. */
export async function serve(argv: string[]): Promise<number> {
  let request: ServeRequest | null = null;
  try {
    request = readServeLine(argv);
    return request === null ? 0 : await serveImage(request, reportFor(request.json, request));
  } catch (error) {
    const failure = failureOf(error);
    const report = reportFor(request?.json ?? argv.includes('--json'), request);
    report.failed(failure, error instanceof UsageError ? null : (request?.path ?? null));
    if (request?.debug === true) process.stderr.write(`${inspect(error)}\n`);
    return failure.exitStatus;
  }
}

function reportFor(json: boolean, request: ServeRequest | null): ServeReport {
  const { stdout, stderr } = process;
  return json
    ? jsonReport(stdout, stderr)
    : plainReport(request?.path ?? '', request?.quiet === true, stdout, stderr);
}

async function serveImage(request: ServeRequest, report: ServeReport): Promise<number> {
  const { path, place, readOnly, exportName, cacheBytes, background } = request;
  const tls = request.tls === null ? null : readTls(request.tls);
  let endLine: () => void = () => undefined;
  const onStop = (): void => {
    endLine();
    report.stopping();
  };
  const stops = watchStops(undefined, { onStop, beforeEnd: () => endLine() }, SERVER_SIGNALS);
  try {
    const disk = await Qcow2Disk.open(path, { readOnly, cacheBytes, ...background });
    const status = (): StatusFacts => statusFacts(path, disk, server.traffic, failureOf);
    const server: NbdServer = new NbdServer({
      served: { name: exportName, disk },
      tls,
      control: controlOf(disk, status),
      onBegin: () => report.clients('connected', server.traffic.clients),
      onEnd: (problem) => report.clients('disconnected', server.traffic.clients, problem?.message),
      onFailure: (error) => report.failure(failureOf(error)),
    });
    const tell = (): void => report.status(status());
    process.on('SIGUSR1', tell);
    // Whatever fails: a listener, or a client, would keep the process for ever.
    let leave: () => void = () => undefined;
    try {
      const listening = await listenAt(server, place);
      leave = listening.leave;
      const uri = uriOf(place, listening.port, exportName, tls !== null);
      const { sizeBytes } = disk;
      report.ready({ path, uri, sizeBytes, readOnly, export: exportName, pid: process.pid });
      if (!request.quiet && canDraw(process.stderr) && !stops.signal.aborted)
        endLine = (await import('./serve-line.js')).showServing(process.stderr, status);
      await aborted(stops.signal);
    } finally {
      leave();
      await server.stop();
      await disk.close();
      process.off('SIGUSR1', tell);
    }
    report.stopped(server.traffic);
    return 0;
  } finally {
    endLine();
    stops.stopWatching();
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

function readTls(paths: TlsPaths): TlsFiles {
  const read = (option: string, path: string): Buffer => {
    try {
      return fs.readFileSync(path);
    } catch (error) {
      throw new UsageError(`\`${option}\` cannot be read: ${systemReason(error)}`);
    }
  };
  const files: TlsFiles = {
    cert: read('--tls-cert', paths.cert),
    key: read('--tls-key', paths.key),
    ...(paths.ca !== undefined && { ca: read('--tls-ca', paths.ca) }),
  };
  try {
    if (files.ca !== undefined) new X509Certificate(files.ca);
  } catch (error) {
    throw new UsageError(`the file of \`--tls-ca\` is no certificate: ${systemReason(error)}`);
  }
  try {
    checkTls(files);
  } catch (error) {
    throw new UsageError(`the files of \`--tls-...\` are no certificate and its key: ${systemReason(error)}`);
  }
  return files;
}
