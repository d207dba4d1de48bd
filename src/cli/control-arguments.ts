/** What `status` and `now` ask for. */
import { Command, CommanderError } from 'commander';
import type { ControlCommand } from '../nbd/control.js';
import type { Address } from '../nbd/control-client.js';
import { usageOf } from './usage-of.js';
import { UsageError } from './usage-error.js';

/** Of NBD. */
const DEFAULT_PORT = 10809;

const WHAT: Record<ControlCommand, string> = {
  status: 'Tells what a server has of junk and of clusters ready for new data, and what it is doing.',
  now: 'Has a server compact its image at once, and waits for the end; the clients go on meanwhile.',
};

export interface ControlRequest {
  address: Address;
  /** As the user has it. */
  name: string;
  json: boolean;
  quiet: boolean;
  debug: boolean;
}

function createProgram(command: ControlCommand): Command {
  return new Command(`qcow-compact ${command}`)
    .description(WHAT[command])
    .usage('[options] SOCKET')
    .argument('[sockets...]', 'what `serve --socket` was given, or the URI that it told')
    .option('--json', 'one JSON document on stdout (docs/serve.md)')
    .option('-q, --quiet', 'print errors only')
    .option('--debug', 'print the trace of errors')
    .helpOption('-h, --help', 'print this help')
    .exitOverride()
    .configureOutput({ outputError: () => undefined });
}

/** Null where `--help` was answered. Throws UsageError. */
export function readControlLine(command: ControlCommand, argv: string[]): ControlRequest | null {
  const program = createProgram(command);
  try {
    program.parse(argv, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return null;
    throw usageOf(error, `see \`${command} --help\``);
  }
  const [name, ...more] = program.args;
  if (name === undefined || name === '' || more.length > 0)
    throw new UsageError(
      `\`${command}\` takes the socket of one server; usage: \`qcow-compact ${command} SOCKET\``,
    );
  const { json, quiet, debug } = program.opts<{ json?: boolean; quiet?: boolean; debug?: boolean }>();
  return {
    address: addressOf(name),
    name,
    json: json === true,
    quiet: quiet === true,
    debug: debug === true,
  };
}

/** A path, or a URI as `serve` tells it. Throws UsageError. */
export function addressOf(name: string): Address {
  const isUri = /^nbds?(\+unix)?:\/\//.test(name);
  if (!isUri) return { path: name };
  if (name.startsWith('nbds'))
    throw new UsageError(`\`${name}\` speaks TLS only; send SIGUSR1 to the server for its status`);
  if (!URL.canParse(name)) throw new UsageError(`\`${name}\` is no URI of an NBD server`);
  const { hostname, port, searchParams, protocol } = new URL(name);
  if (protocol === 'nbd:') {
    if (hostname === '') throw new UsageError(`\`${name}\` names no host`);
    return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? DEFAULT_PORT : Number(port) };
  }
  const path = searchParams.get('socket');
  if (path === null || path === '') throw new UsageError(`\`${name}\` names no socket`);
  return { path };
}
