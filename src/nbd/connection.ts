/** One client, from the greeting to its end. */
import type { Duplex } from 'node:stream';
import type { Budget } from './budget.js';
import type { BufferPool } from './buffer-pool.js';
import type { Control, ControlCommand, Facts } from './control.js';
import { ProtocolError, messageOf } from './errors.js';
import type { Door } from './door.js';
import type { Export } from './export.js';
import { Haggling, type HagglingOptions, type Terms } from './haggling.js';
import { Disconnected, Input } from './input.js';
import { optionReply } from './negotiation-codec.js';
import { Output } from './output.js';
import { Option, Reply } from './protocol.js';
import { type TlsFiles, startTls } from './tls.js';
import type { Traffic } from './traffic.js';
import { Transmission } from './transmission.js';
import { Work } from './work.js';

/** Whoever has not chosen an export by then is cut off: it may be nobody. */
const NEGOTIATION_MS = 30_000;
/** The same where TLS is to come first, of those who have not shown that they know it. */
const HANDSHAKE_MS = 10_000;
/** Each gives the client its time anew. */
const MOST_COMMANDS = 1000;
/** That a client has to take its last answers, once it asks for nothing more. */
const FAREWELL_MS = 30_000;
/** That a client has to close its side, once all is said. */
const LINGER_MS = 2_000;

export interface ConnectionOptions {
  served: Export;
  tls: TlsFiles | null;
  budget: Budget;
  pool: BufferPool;
  traffic: Traffic;
  /** Takes the commands to the server itself; null: there are none. */
  control?: Control | null;
  onFailure: (error: unknown) => void;
  door: Door;
  /** It has become a client of the disk. */
  onBegin?: (() => void) | undefined;
  negotiationMs?: number;
  handshakeMs?: number;
  farewellMs?: number;
}

export class Connection {
  readonly #options: ConnectionOptions;
  /** That of TLS once it has begun. */
  #socket: Duplex;
  #transmission: Transmission | null = null;
  #input: Input;
  #isStopping = false;

  constructor(socket: Duplex, options: ConnectionOptions) {
    this.#options = options;
    this.#socket = socket;
    this.#input = this.#listen(socket);
  }

  /** Resolves when the connection is over; null, or what the client did wrong. */
  async run(): Promise<ProtocolError | null> {
    try {
      const agreed = await this.#negotiate();
      if (agreed !== null) await this.#transmit(agreed);
      await this.#end();
      return null;
    } catch (error) {
      this.cut();
      if (error instanceof Disconnected) return null;
      if (error instanceof ProtocolError) return error;
      throw error;
    }
  }

  /** Requests under way are answered, then the connection ends. */
  stop(): void {
    this.#isStopping = true;
    if (this.#transmission === null) this.cut();
    else this.#transmission.stop();
  }

  cut(): void {
    this.#socket.destroy();
  }

  /** The client closes too; one that does not is cut off. */
  async #end(): Promise<void> {
    if (this.#socket.destroyed) return;
    const closed = new Promise((resolve) => this.#socket.once('close', resolve));
    const timer = setTimeout(() => this.cut(), LINGER_MS);
    this.#input.discard();
    this.#socket.end();
    await closed;
    clearTimeout(timer);
  }

  #listen(socket: Duplex): Input {
    // What it means is seen at the reading end, and at the writing one by nobody.
    socket.on('error', () => undefined);
    return new Input(socket);
  }

  async #negotiate(): Promise<{ terms: Terms; output: Output } | null> {
    const { negotiationMs = NEGOTIATION_MS, handshakeMs = HANDSHAKE_MS, tls, door } = this.#options;
    const limit = (ms = negotiationMs): NodeJS.Timeout => setTimeout(() => this.cut(), ms);
    let timer = limit(tls === null ? negotiationMs : handshakeMs);
    let commands = 0;
    door.arrive(this);
    try {
      let output = new Output(this.#socket);
      let haggling = await Haggling.greet(this.#input, output, this.#hagglingOptions());
      for (;;) {
        const outcome = await haggling.run();
        if (outcome.kind === 'terms') return { terms: outcome.terms, output };
        await output.drained();
        if (outcome.kind === 'gone') return null;
        if (outcome.kind === 'control') {
          clearTimeout(timer);
          if (++commands > MOST_COMMANDS) throw new ProtocolError('too many commands on one connection');
          await this.#runCommand(outcome.command, output);
          door.arrive(this);
          timer = limit();
          continue;
        }
        await this.#secure();
        door.renew(this);
        clearTimeout(timer);
        timer = limit();
        output = new Output(this.#socket);
        haggling = haggling.within(this.#input, output);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #hagglingOptions(): HagglingOptions {
    const { served, tls, control, door, onBegin } = this.#options;
    return {
      admit: () => {
        if (!door.admit(this)) return false;
        onBegin?.();
        return true;
      },
      admitCommand: () => door.command(this),
      served,
      tls: tls === null ? 'none' : 'required',
      hasControl: control !== undefined && control !== null,
      isStopping: () => this.#isStopping,
    };
  }

  /** Throws Disconnected where the connection ends first. */
  async #runCommand(command: ControlCommand, output: Output): Promise<void> {
    const control = this.#options.control!;
    let isSending = false;
    const send = (type: number, facts: Facts): void => {
      isSending = true;
      output.send(optionReply(Option.control, type, JSON.stringify(facts)), () => (isSending = false));
    };
    // Who does not read is told less, and not kept waiting for.
    let isHeard = true;
    const tell = (facts: Facts): boolean => {
      if (isHeard && !isSending) send(Reply.facts, facts);
      return isHeard;
    };
    let forget: () => void = () => undefined;
    const gone = new Promise<never>((_, reject) => {
      forget = this.#input.whenEnded(() => {
        isHeard = false;
        reject(new Disconnected('the client has gone'));
      });
    });
    const answered = control.run(command, tell).then(
      (facts) => {
        send(Reply.facts, facts);
        output.send(optionReply(Option.control, Reply.ack));
      },
      (error: unknown) => send(Reply.failed, control.failureFacts(error)),
    );
    await Promise.race([answered, gone]).finally(forget);
  }

  async #secure(): Promise<void> {
    try {
      this.#socket = await startTls(this.#socket, this.#options.tls!);
    } catch (error) {
      throw new ProtocolError(`TLS failed: ${messageOf(error)}`);
    }
    this.#input = this.#listen(this.#socket);
  }

  async #transmit({ terms, output }: { terms: Terms; output: Output }): Promise<void> {
    const { served, budget, pool, traffic, onFailure, farewellMs = FAREWELL_MS } = this.#options;
    const cut = (): void => this.cut();
    const work = new Work((error) => {
      onFailure(error);
      cut();
    });
    const share = budget.open();
    const context = {
      ...{ disk: served.disk, terms, output, work, share, pool, traffic, onFailure, cut, farewellMs },
      isCut: () => this.#socket.destroyed,
    };
    this.#transmission = new Transmission(context, this.#input);
    await this.#transmission.run();
  }
}
