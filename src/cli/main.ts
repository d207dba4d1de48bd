/** The command line. Only what `--help` and `--version` need is loaded here; the engine comes with run.js and serve.js. */
import { Command, CommanderError, Option } from 'commander';
import {
  REPAIR_CHOICES,
  UsageError,
  joinRepair,
  parseRequest,
  type RawOptions,
  type Request,
} from './arguments.js';
import { printable } from './printable.js';
import { survivePipes } from './pipes.js';
import { usageOf } from './usage-of.js';
import { VERSION } from './version.js';

const EXAMPLES = `
Examples:
  qcow-compact --dry-run vm.qcow2          what would be gained
  qcow-compact vm.qcow2                    compact in place (the VM must be shut down)
  qcow-compact --keep-erased 1000 vm.qcow2 compact, keep 1000 clean clusters for the guest's next writes
  qcow-compact --repair vm.qcow2           repair what a crash left, then compact
  qcow-compact --threshold 10% --max-time 2h --limit-rate 50M --quiet /vms/*.qcow2
                                           every night: what is worth it, within bounds
  qcow-compact serve --socket vm.sock vm.qcow2
                                           an NBD server for a VM to run on; see \`serve --help\`
  qcow-compact now vm.sock                 have that server compact its image, with the VM running

A bare number is seconds, or bytes; K, M, G and T are powers of 1024.

The image is valid at every moment: an interrupt or a power failure loses nothing.
Exit status: 0 done; others in docs/exit-codes.md.`;

function createProgram(): Command {
  return new Command('qcow-compact')
    .description('Compacts qcow2 disk images in place, crash-safely.')
    .usage(
      '[options] IMAGE...\n       qcow-compact serve [options] IMAGE\n       qcow-compact status|now SOCKET',
    )
    .argument('[images...]', 'qcow2 images; nothing else may have them open')
    .option('--dry-run', 'tell what would be done and gained; write nothing')
    .option('--check', 'check the images in the manner of `qemu-img check`; write nothing')
    .addOption(
      new Option(
        '--repair [leaks|all]',
        'mend first what can be mended without losing data (all), or leaks alone; with --check, do nothing else',
      ).choices(REPAIR_CHOICES),
    )
    .option('--erase-only', 'move nothing: overwrite clusters that nothing uses with zeroes')
    .option('--keep-erased <N>', 'leave N erased clusters; with --erase-only, stop when N are erased')
    .option('--punch', 'erase by deallocating host blocks instead of writing zeroes')
    .option('--drop-preallocation', 'give up clusters that are allocated but read as zeroes')
    .option('--secret-file <F>', 'what opens images encrypted with LUKS, so that their data move too')
    .option('--jobs <N>', 'images at the same time; by default one on each file system')
    .option('--threshold <T>', 'leave alone what gains less: `10%` of the file, or `1G`')
    .option('--max-time <T>', 'stop after `90s`, `30m`, `2h` or `1d`, and keep what is gained; ends with 75')
    .option(
      '--limit-rate <R>',
      'read and write at most so many bytes a second each, `50M`, all images together',
    )
    .option('--json', 'one JSON document on stdout (docs/json.md)')
    .option('-q, --quiet', 'print errors only')
    .option('--debug', 'print the trace of errors')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .addHelpText('after', EXAMPLES)
    .exitOverride()
    .configureOutput({ outputError: () => undefined });
}

/** That a reader of a server's log has for its end: the server is not to wait for one who has stopped reading. */
const LOG_MS = 1000;

/** The request, or null where `--help` or `--version` was answered. Throws UsageError. */
function readCommandLine(argv: string[]): Request | null {
  const program = createProgram();
  try {
    program.parse(joinRepair(argv), { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return null;
    throw usageOf(error, 'see `--help`');
  }
  return parseRequest(program.args, program.opts<RawOptions>());
}

/** The secret is overwritten as soon as nothing needs it. */
async function runRequest(request: Request): Promise<number> {
  const { readSecret } = await import('./secret.js');
  const secret = readSecret(request.secretFile, process.env);
  try {
    return await (await import('./run.js')).run(request, secret);
  } finally {
    secret?.fill(0);
  }
}

/** An image of the name of a command is `./serve`. */
async function runCommand(argv: string[]): Promise<number> {
  const [first] = argv;
  if (first === 'serve') return (await import('./serve.js')).serve(argv.slice(1));
  if (first === 'status' || first === 'now')
    return (await import('./control.js')).control(first, argv.slice(1));
  const request = readCommandLine(argv);
  return request === null ? 0 : runRequest(request);
}

/** The exit status. */
async function main(argv: string[]): Promise<number> {
  // Else it would open a port for debuggers: `serve` tells its status by it, once there is one.
  process.on('SIGUSR1', () => undefined);
  const output = survivePipes();
  let status: number;
  try {
    status = await runCommand(argv);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    if (argv.includes('--json')) {
      const { usageDocument } = await import('./json.js');
      process.stdout.write(usageDocument(error));
    }
    process.stderr.write(`qcow-compact: ${printable(error.message)}\n`);
    status = error.exitStatus;
  }
  return output.statusAfterFlush(status, argv[0] === 'serve' ? LOG_MS : undefined);
}

const argv = process.argv.slice(2);
void main(argv).then((status) => {
  process.exitCode = status;
  // What nobody takes would be waited for, for ever.
  if (argv[0] === 'serve' && process.stdout.writableLength + process.stderr.writableLength > 0)
    process.exit();
});
