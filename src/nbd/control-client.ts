/** Asks a server for something by `Option.control`: one connection, one command. */
import net from 'node:net';
import { QcowError } from '../errors.js';
import { errorCode, systemReason } from '../system-error.js';
import type { ControlCommand, Facts } from './control.js';
import { Disconnected, Input } from './input.js';
import { controlRequest, isGreeting, readReplyHeader } from './control-codec.js';
import { GREETING_BYTES, OPTION_REPLY_BYTES, Reply } from './protocol.js';

/** A server that does not greet by then is none, or is stuck. */
const GREETING_MS = 10_000;
/** Facts are short: what claims more is no answer of ours. */
const MOST_FACTS_BYTES = 64 << 10;

export type Address = { path: string } | { host: string; port: number };

export interface ControlAnswer {
  /** Null where the command failed. */
  facts: Facts | null;
  failure: Facts | null;
}

/** `onFacts`: what is told before the end. Throws QcowError where there is no such server, or it goes. */
export async function askServer(
  address: Address,
  name: string,
  command: ControlCommand,
  onFacts: (facts: Facts) => void,
): Promise<ControlAnswer> {
  const socket = net.connect({ ...address, noDelay: true });
  // What it means is seen at the reading end.
  let failure: unknown = null;
  socket.on('error', (error) => (failure = error));
  const input = new Input(socket);
  const timer = setTimeout(() => socket.destroy(), GREETING_MS);
  let hasBegun = false;
  try {
    if (!isGreeting(await input.take(GREETING_BYTES)))
      throw noServer(name, 'what listens there is no NBD server');
    hasBegun = true;
    clearTimeout(timer);
    socket.write(controlRequest(command));
    return await readAnswer(input, name, onFacts);
  } catch (error) {
    if (!(error instanceof Disconnected)) throw error;
    if (failure !== null && !hasBegun) throw noServer(name, systemReason(failure), failure);
    throw noServer(name, hasBegun ? 'it ended before it had answered' : 'nobody answers there');
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

async function readAnswer(
  input: Input,
  name: string,
  onFacts: (facts: Facts) => void,
): Promise<ControlAnswer> {
  let last: Facts | null = null;
  for (;;) {
    const { type, lengthBytes } = readReplyHeader(await input.take(OPTION_REPLY_BYTES)) ?? {};
    if (type === undefined || lengthBytes! > MOST_FACTS_BYTES)
      throw noServer(name, 'its answer is not of the NBD protocol');
    const data = await input.take(lengthBytes!);
    if (type === Reply.ack && last !== null) return { facts: last, failure: null };
    if (type === Reply.facts) {
      last = factsOf(data, name);
      onFacts(last);
    } else if (type === Reply.failed) return { facts: null, failure: factsOf(data, name) };
    else if (type === Reply.tlsRequired)
      throw noServer(name, 'it speaks TLS only', undefined, 'send SIGUSR1 to its process for the status');
    else if (type === Reply.policy)
      throw noServer(name, 'it has as many commands under way as it takes', undefined, 'end a waiting `now`');
    else if (type === Reply.shutdown) throw noServer(name, 'it is about to end');
    else throw noServer(name, 'what listens there is another NBD server, or an older one');
  }
}

function factsOf(data: Buffer, name: string): Facts {
  try {
    return JSON.parse(data.toString()) as Facts;
  } catch {
    throw noServer(name, 'its answer cannot be read');
  }
}

function noServer(name: string, what: string, cause?: unknown, hint?: string): QcowError {
  const isMissing = errorCode(cause) === 'ENOENT' || errorCode(cause) === 'ECONNREFUSED';
  return new QcowError('NO_SERVER', `no answer of a server at ${name}: ${what}`, {
    cause,
    hint: hint ?? (isMissing ? 'is `qcow-compact serve` running?' : undefined),
  });
}
