/** Runs the bench as `npm run bench` does, on images so small that its figures mean nothing. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';

const RUN = fileURLToPath(new URL('../../bench/run.mjs', import.meta.url));

export interface BenchResult {
  case: string;
  fileSystem: string;
  seconds: number;
  rivals: { name: string; ratio: number; ratios: number[] }[];
  bytesWritten?: number;
  mustMoveBytes?: number;
  movesBy?: string;
}

export interface Verdict {
  fileSystem: string;
  case: string;
  what: string;
  value: number;
  verdict: string;
}

export interface BenchDocument {
  host: Record<string, unknown>;
  results: BenchResult[];
  verdicts: Verdict[];
}

export interface BenchRun {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** `onLog` sees all of stderr so far; it may end the run by a signal. */
export async function bench(
  args: readonly string[],
  onLog: (stderr: string, kill: (signal: NodeJS.Signals) => void) => void = () => undefined,
): Promise<BenchRun> {
  const child = spawn(process.execPath, [RUN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    onLog(stderr, (signal) => child.kill(signal));
  });
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, stdout, stderr };
}

export function documentAt(path: string): BenchDocument {
  return JSON.parse(fs.readFileSync(path, 'utf8')) as BenchDocument;
}

/** A module of the bench, which is plain JavaScript. */
export async function benchModule<T>(name: string): Promise<T> {
  return (await import(new URL(`../../bench/${name}`, import.meta.url).href)) as T;
}
