/** What `qcow-compact serve` asks for, checked before the image is opened. */
import { Command, CommanderError } from 'commander';
import type { BackgroundSettings } from '../disk/background/options.js';
import type { Place } from '../nbd/server.js';
import { parseBytes, parseCount, parseRate } from './quantities.js';
import { UsageError } from './usage-error.js';
import { usageOf } from './usage-of.js';

const EXAMPLES = `
Examples:
  qcow-compact serve --socket vm.sock vm.qcow2
  qcow-compact serve --socket vm.sock --keep-erased 1000 --compact-after 256M vm.qcow2
  qemu-system-x86_64 ... -drive file=nbd+unix:///?socket=vm.sock,format=raw,discard=unmap
  nbdinfo nbd+unix:///?socket=vm.sock

The image is compacted while clients use it, once it has more junk than \`--compact-after\`.
\`qcow-compact status vm.sock\` tells how far it is, \`qcow-compact now vm.sock\` has it done at once.
A port is open to this host only, unless \`--bind\` says otherwise or clients need a certificate.
SIGTERM and Ctrl-C answer what is under way, flush, and end with 0. More in docs/serve.md.`;

/** Bytes of junk. */
const DEFAULT_COMPACT_AFTER = 1 << 30;
const MOST_PORT = 65535;
const MOST_NAME_BYTES = 4096;
/** What a socket's path may have, on Linux 108 bytes with the 0 that ends it. */
const MOST_SOCKET_BYTES = process.platform === 'darwin' ? 103 : 107;

interface RawOptions {
  socket?: string;
  port?: string;
  bind?: string;
  readOnly?: boolean;
  export?: string;
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
  cacheSize?: string;
  keepErased?: string;
  compactAfter?: string;
  backgroundRate?: string;
  json?: boolean;
  quiet?: boolean;
  debug?: boolean;
}

/** Paths of PEM files. */
export interface TlsPaths {
  cert: string;
  key: string;
  ca: string | undefined;
}

export interface ServeRequest {
  path: string;
  place: Place;
  readOnly: boolean;
  exportName: string;
  tls: TlsPaths | null;
  cacheBytes: number | undefined;
  background: BackgroundSettings;
  json: boolean;
  quiet: boolean;
  debug: boolean;
}

function createProgram(): Command {
  return new Command('qcow-compact serve')
    .description('Serves a qcow2 image as a disk over NBD; it is a valid image at every moment.')
    .usage('[options] IMAGE')
    .argument('[images...]', 'a qcow2 image; nothing else may have it open')
    .option('--socket <PATH>', 'listen on this socket of the file system')
    .option('--port <N>', 'listen on this TCP port; 0 takes one that is free')
    .option('--bind <ADDRESS>', 'with --port: the address to listen on')
    .option('--read-only', 'write nothing; others may read the image too')
    .option('--export <NAME>', 'the name of the disk; a client that gives none gets it too')
    .option('--tls-cert <F>', 'with --port: speak TLS only, with this certificate (PEM)')
    .option('--tls-key <F>', 'its key')
    .option('--tls-ca <F>', 'let in only clients with a certificate that this one has signed')
    .option('--cache-size <S>', 'memory for tables of the image (default: 64M)')
    .option('--keep-erased <N>', 'keep N clusters of junk zeroed and ready for new data (default: 0)')
    .option('--compact-after <S>', 'compact once more than this is junk; 0: only by `now` (default: 1G)')
    .option('--background-rate <R>', 'copy at most so many bytes a second while clients work (default: 32M)')
    .option('--json', 'log in JSON, one object a line on stdout (docs/serve.md)')
    .option('-q, --quiet', 'print errors only')
    .option('--debug', 'print the trace of errors')
    .helpOption('-h, --help', 'print this help')
    .addHelpText('after', EXAMPLES)
    .exitOverride()
    .configureOutput({ outputError: () => undefined });
}

/** Null where `--help` was answered. Throws UsageError. */
export function readServeLine(argv: string[]): ServeRequest | null {
  const program = createProgram();
  try {
    program.parse(argv, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return null;
    throw usageOf(error, 'see `serve --help`');
  }
  return parseServe(program.args, program.opts<RawOptions>());
}

/** Throws UsageError. */
export function parseServe(paths: string[], raw: RawOptions): ServeRequest {
  const [path] = paths;
  if (path === undefined || path === '')
    throw new UsageError('no image given; usage: `qcow-compact serve [options] IMAGE`, see `serve --help`');
  if (paths.length > 1)
    throw new UsageError('`serve` takes one image; a second one needs a server of its own');
  const tls = tlsOf(raw);
  const exportName = raw.export ?? '';
  if (Buffer.byteLength(exportName) > MOST_NAME_BYTES)
    throw new UsageError(`\`--export\` must be at most ${MOST_NAME_BYTES} bytes`);
  const readOnly = raw.readOnly === true;
  return {
    path,
    place: placeOf(raw, tls),
    readOnly,
    exportName,
    tls,
    cacheBytes: raw.cacheSize === undefined ? undefined : parseBytes('--cache-size', raw.cacheSize),
    background: backgroundOf(raw, readOnly),
    json: raw.json === true,
    quiet: raw.quiet === true,
    debug: raw.debug === true,
  };
}

/** What nobody says is left to its default. */
function backgroundOf(
  { keepErased, compactAfter, backgroundRate }: RawOptions,
  readOnly: boolean,
): BackgroundSettings {
  const isGiven = [keepErased, compactAfter, backgroundRate].some((option) => option !== undefined);
  if (readOnly && isGiven)
    throw new UsageError('with `--read-only` nothing is erased or compacted: leave the options for it out');
  return {
    keepErased: keepErased === undefined ? 0 : parseCount('--keep-erased', keepErased, 'clusters', 0),
    compactAfterBytes:
      compactAfter === undefined ? DEFAULT_COMPACT_AFTER : parseBytes('--compact-after', compactAfter),
    ...(backgroundRate !== undefined && {
      backgroundBytesPerSecond: parseRate('--background-rate', backgroundRate),
    }),
  };
}

/** Whoever may come to an open port unasked is let in nowhere but from this host. */
function placeOf(raw: RawOptions, tls: TlsPaths | null): Place {
  const { socket, port, bind } = raw;
  if ((socket === undefined) === (port === undefined))
    throw new UsageError('where to listen is said by either `--socket PATH` or `--port N`');
  if (port !== undefined) {
    const number = parseCount('--port', port, 'at most 65535', 0);
    if (bind === '') throw new UsageError('`--bind` must be an address; got nothing');
    if (number > MOST_PORT) throw new UsageError(`\`--port\` must be at most ${MOST_PORT}; got \`${port}\``);
    return { port: number, host: bind ?? (tls?.ca === undefined ? '127.0.0.1' : '::') };
  }
  if (bind !== undefined) throw new UsageError('`--bind` goes with `--port`');
  if (tls !== null)
    throw new UsageError('`--tls-cert` goes with `--port`: the modes of a file guard a socket');
  const length = Buffer.byteLength(socket!);
  if (length === 0 || length > MOST_SOCKET_BYTES)
    throw new UsageError(`\`--socket\` must be a path of at most ${MOST_SOCKET_BYTES} bytes; got ${length}`);
  return { socket: socket! };
}

function tlsOf({ tlsCert, tlsKey, tlsCa }: RawOptions): TlsPaths | null {
  if (tlsCert === undefined && tlsKey === undefined && tlsCa === undefined) return null;
  if (tlsCert === undefined || tlsKey === undefined)
    throw new UsageError('TLS needs both `--tls-cert` and `--tls-key`');
  return { cert: tlsCert, key: tlsKey, ca: tlsCa };
}
