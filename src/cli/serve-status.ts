/** What a server has to tell of its disk, as facts (docs/serve.md) and as lines. */
import type { DiskStatus } from '../disk/background/status.js';
import type { Qcow2Disk } from '../disk/qcow2-disk.js';
import type { Traffic } from '../nbd/traffic.js';
import type { Failure } from './outcome.js';
import { printable } from './printable.js';
import { countOf, humanBytes } from './units.js';

/** What the disk tells of itself, with what failed in words. */
export type DiskFacts = Omit<DiskStatus, 'failure'> & { failure: Pick<Failure, 'code' | 'message'> | null };

/** Of `status`, of SIGUSR1, and of `now` on its way. Names are a promise: add, never rename. */
export interface StatusFacts extends Omit<Traffic, 'changes'> {
  path: string;
  sizeBytes: number;
  readOnly: boolean;
  /** Null where nothing is written. */
  image: DiskFacts | null;
}

export function statusFacts(
  path: string,
  disk: Qcow2Disk,
  { clients, requests, bytesRead, bytesWritten }: Traffic,
  describeFailure: (error: Error) => Failure,
): StatusFacts {
  const status = disk.status();
  const traffic = { clients, requests, bytesRead, bytesWritten };
  const common = { path, sizeBytes: disk.sizeBytes, readOnly: disk.isReadOnly, ...traffic };
  if (status === null) return { ...common, image: null };
  const { failure, ...figures } = status;
  if (failure === null) return { ...common, image: { ...figures, failure } };
  const { code, message } = describeFailure(failure);
  return { ...common, image: { ...figures, failure: { code, message } } };
}

/** `12 requests, 1.0 MiB read, 4.0 KiB written`. */
export function trafficLine({ requests, bytesRead, bytesWritten }: Omit<Traffic, 'changes'>): string {
  return `${countOf(requests, 'request')}, ${humanBytes(bytesRead)} read, ${humanBytes(bytesWritten)} written`;
}

/** All lines, without the last newline. */
export function statusLines(facts: StatusFacts): string {
  const { path, sizeBytes, readOnly, clients, image } = facts;
  const mode = readOnly ? ', read-only' : image?.isCompacting === true ? ', compacting' : '';
  const rows: [name: string, text: string][] = [];
  if (image !== null) {
    const { movesUnderWay, clustersMoved, failure, failures } = image;
    rows.push(['file', humanBytes(image.fileBytes)]);
    rows.push(['junk', humanBytes(image.junkBytes)]);
    rows.push(['erased', humanBytes(image.erasedBytes)]);
    rows.push(['available', humanBytes(image.availableBytes)]);
    rows.push(['moves', `${movesUnderWay} under way, ${countOf(clustersMoved, 'cluster')} moved`]);
    rows.push(['reclaimed', humanBytes(image.bytesReclaimed)]);
    if (failure !== null)
      rows.push(['failure', `${printable(failure.message)} (${countOf(failures, 'failure')})`]);
  }
  rows.push(['clients', `${clients}; ${trafficLine(facts)}`]);
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`);
  return [`${printable(path)}: serving ${humanBytes(sizeBytes)}${mode}`, ...lines].join('\n');
}
