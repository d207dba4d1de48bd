/** Runs the built command line as a user would: another process, real files. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

export const CLI = fileURLToPath(new URL('../../bin/qcow-compact.js', import.meta.url));

export interface CliRun {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs to the end. `uid`: as that user, where this is the superuser. */
export function cli(args: readonly string[], options: { cwd?: string; uid?: number } = {}): CliRun {
  const { status, signal, stdout, stderr, error } = spawnSync(process.execPath, [CLI, ...args], {
    encoding: 'utf8',
    ...(options.cwd !== undefined && { cwd: options.cwd }),
    ...(options.uid !== undefined && { uid: options.uid, gid: options.uid }),
  });
  if (error !== undefined) throw error;
  return { status, signal, stdout, stderr };
}

export interface StartedCli {
  child: ChildProcess;
  /** All that it printed, once it has ended. */
  ended: Promise<CliRun>;
}

/** Starts and returns at once. */
export function startCli(args: readonly string[]): StartedCli {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const ended = once(child, 'close').then(([status, signal]) => ({
    status: status as number | null,
    signal: signal as NodeJS.Signals | null,
    stdout,
    stderr,
  }));
  return { child, ended };
}

/** The document of `--json`. */
export interface JsonDocument {
  version: number;
  exitStatus: number;
  error: { code: string; message: string; exitStatus: number } | null;
  images: (Record<string, unknown> & {
    path: string;
    ok: boolean;
    mode: string;
    outcome: string;
    error: { code: string; message: string; exitStatus: number } | null;
  })[];
}

export function cliJson(args: readonly string[]): { run: CliRun; document: JsonDocument } {
  const run = cli(['--json', ...args]);
  return { run, document: JSON.parse(run.stdout) as JsonDocument };
}
