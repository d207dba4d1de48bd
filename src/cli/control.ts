/** `qcow-compact status SOCKET` and `qcow-compact now SOCKET`: asks a server that runs. */
import { inspect } from 'node:util';
import type { ControlCommand, Facts } from '../nbd/control.js';
import { askServer } from '../nbd/control-client.js';
import { type ControlRequest, readControlLine } from './control-arguments.js';
import type { Failure } from './outcome.js';
import { printable } from './printable.js';
import { canDraw } from './progress.js';
import { failureOf, type NowFacts } from './serve-control.js';
import { type StatusFacts, statusLines } from './serve-status.js';
import { humanBytes, humanDuration } from './units.js';

/** The exit status; all errors are reported here. */
export async function control(command: ControlCommand, argv: string[]): Promise<number> {
  let request: ControlRequest | null = null;
  try {
    request = readControlLine(command, argv);
    return request === null ? 0 : await ask(command, request);
  } catch (error) {
    const failure = failureOf(error);
    reportFailure(failure, request?.json ?? argv.includes('--json'));
    if (request?.debug === true) process.stderr.write(`${inspect(error)}\n`);
    return failure.exitStatus;
  }
}

async function ask(command: ControlCommand, { address, name, json, quiet }: ControlRequest): Promise<number> {
  const draws = command === 'now' && !quiet && canDraw(process.stderr);
  const line = draws ? (await import('./serve-line.js')).showWaiting(process.stderr, name) : null;
  const { facts, failure } = await askServer(address, name, command, (told) => {
    if ('path' in told) line?.update(told as unknown as StatusFacts);
  }).finally(() => line?.end());
  if (failure !== null) {
    const { message, ...rest } = failure as unknown as Failure;
    reportFailure({ ...rest, message: `the server at ${name} failed: ${message}` }, json);
    return rest.exitStatus;
  }
  if (json) process.stdout.write(`${JSON.stringify(facts, null, 2)}\n`);
  else if (!quiet || command === 'status') process.stdout.write(`${linesOf(command, facts!)}\n`);
  return 0;
}

function linesOf(command: ControlCommand, facts: Facts): string {
  if (command === 'status') return statusLines(facts as unknown as StatusFacts);
  const { status, bytesReclaimed, seconds } = facts as unknown as NowFacts;
  const { path, image } = status;
  const length = humanBytes(image?.fileBytes ?? 0);
  const line = `${length}, reclaimed ${humanBytes(bytesReclaimed)} in ${humanDuration(seconds)}`;
  return `${printable(path)}: ${line}${leftIn(image)}`;
}

function leftIn(image: StatusFacts['image']): string {
  if (image === null || image.junkBytes === 0 || image.fixedBytes < image.fileBytes) return '';
  const junk = humanBytes(image.junkBytes);
  return `; ${junk} of junk stay before what does not move beside clients: compact it when the VM is shut down`;
}

/** In the document too, where one is asked for. */
function reportFailure({ code, message, exitStatus }: Failure, json: boolean): void {
  if (json) process.stdout.write(`${JSON.stringify({ error: { code, message, exitStatus } }, null, 2)}\n`);
  process.stderr.write(`qcow-compact: ${printable(message)}\n`);
}
