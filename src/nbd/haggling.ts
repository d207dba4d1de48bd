/** The negotiation: the client's options one after the other, until it begins the transmission or goes. */
import { type ControlCommand, isControlCommand } from './control.js';
import { ProtocolError } from './errors.js';
import { type Export, blockSizes, isNameOf, transmissionFlags } from './export.js';
import type { Input } from './input.js';
import {
  type OptionHeader,
  blockSizeInfo,
  exportInfo,
  exportNameReply,
  greeting,
  numberedText,
  optionReply,
  readInfoRequest,
  readMetaRequest,
  readOptionHeader,
  readText,
  textInfo,
} from './negotiation-codec.js';
import type { Output } from './output.js';
import { ALLOCATION, ALLOCATION_ID, HandshakeFlag, Info, OPTION_BYTES, Option, Reply } from './protocol.js';

/** Longest that an option can be with names and queries of the longest; beyond it is refused unread. */
const MOST_OPTION_BYTES = 64 << 10;
/** One that claims more is no client: it is cut off. */
const MOST_SKIPPED_BYTES = 64 << 20;

const TOO_MANY = 'the server has as many clients as it takes';
const TOO_MANY_COMMANDS = 'the server has as many commands under way as it takes';

/** How the two talk from now on. */
export interface Terms {
  /** Replies come in chunks. */
  isStructured: boolean;
  /** The client may ask which parts have data. */
  hasAllocation: boolean;
}

export interface HagglingOptions {
  served: Export;
  /** `none`: not offered. `required`: nothing else goes before it. `done`: we are within it. */
  tls: 'none' | 'required' | 'done';
  /** Commands to the server itself are taken. */
  hasControl: boolean;
  /** Options but ABORT are refused: the server ends. */
  isStopping: () => boolean;
  /** The client is to have the disk; false where there are too many. */
  admit: () => boolean;
  /** The client's command is to be carried out; false where there are too many. */
  admitCommand: () => boolean;
}

/** `terms`: the transmission begins. `tls`, `control`: to be done now. `gone`: by the client's wish. */
export type Outcome =
  | { kind: 'terms'; terms: Terms }
  | { kind: 'tls' }
  | { kind: 'control'; command: ControlCommand }
  | { kind: 'gone' };

type Handler = (data: Buffer) => Outcome | undefined;

export class Haggling {
  readonly #input: Input;
  readonly #output: Output;
  readonly #options: HagglingOptions;
  #withPadding: boolean;
  #isStructured = false;
  #hasAllocation = false;

  private constructor(input: Input, output: Output, options: HagglingOptions, withPadding: boolean) {
    this.#input = input;
    this.#output = output;
    this.#options = options;
    this.#withPadding = withPadding;
  }

  /** Greets, and reads which of the server's flags the client takes. Throws ProtocolError. */
  static async greet(input: Input, output: Output, options: HagglingOptions): Promise<Haggling> {
    output.send(greeting());
    const flags = (await input.take(4)).readUInt32BE();
    const known = HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes;
    if ((flags & ~known) !== 0) throw new ProtocolError(`client flags ${flags} are not known`);
    return new Haggling(input, output, options, (flags & HandshakeFlag.noZeroes) === 0);
  }

  /** The same client within TLS; nothing that was said before counts, but for its flags. */
  within(input: Input, output: Output): Haggling {
    return new Haggling(input, output, { ...this.#options, tls: 'done' }, this.#withPadding);
  }

  /** Throws ProtocolError, Disconnected. */
  async run(): Promise<Outcome> {
    for (;;) {
      await this.#output.room();
      const header = readOptionHeader(await this.#input.take(OPTION_BYTES));
      if (header === null) throw new ProtocolError('no option where one was due');
      const outcome = await this.#answer(header);
      if (outcome !== undefined) return outcome;
    }
  }

  async #answer({ option, lengthBytes }: OptionHeader): Promise<Outcome | undefined> {
    if (lengthBytes > MOST_SKIPPED_BYTES) throw new ProtocolError(`an option of ${lengthBytes} bytes`);
    const isTooLong = lengthBytes > MOST_OPTION_BYTES;
    if (isTooLong) await this.#input.skip(lengthBytes);
    const data = isTooLong ? null : await this.#input.take(lengthBytes);
    if (option === Option.exportName) return this.#exportName(data);
    if (option === Option.abort) {
      this.#reply(option, Reply.ack);
      return { kind: 'gone' };
    }
    if (this.#options.tls === 'required' && option !== Option.startTls)
      return this.#reply(option, Reply.tlsRequired, 'this server speaks TLS only');
    if (this.#options.isStopping()) return this.#reply(option, Reply.shutdown);
    if (data === null) return this.#reply(option, Reply.tooBig);
    const handler = this.#handlers[option];
    return handler === undefined ? this.#reply(option, Reply.unsupported) : handler(data);
  }

  readonly #handlers: Readonly<Record<number, Handler>> = {
    [Option.list]: (data) => this.#list(data),
    [Option.startTls]: (data) => this.#startTls(data),
    [Option.info]: (data) => this.#info(Option.info, data),
    [Option.go]: (data) => this.#info(Option.go, data),
    [Option.structuredReply]: (data) => this.#structuredReply(data),
    [Option.listMetaContext]: (data) => this.#metaContext(Option.listMetaContext, data),
    [Option.setMetaContext]: (data) => this.#metaContext(Option.setMetaContext, data),
    [Option.control]: (data) => this.#control(data),
  };

  /** There is no room for a refusal: the client is cut off. */
  #exportName(data: Buffer | null): Outcome {
    if (this.#options.tls === 'required') throw new ProtocolError('an export was chosen without TLS');
    const name = data === null ? null : readText(data);
    if (name === null || !isNameOf(name, this.#options.served))
      throw new ProtocolError('an export was chosen that is not served');
    if (!this.#options.admit()) throw new ProtocolError(TOO_MANY);
    this.#output.send(exportNameReply(this.#facts(), this.#withPadding));
    return { kind: 'terms', terms: this.#terms() };
  }

  #list(data: Buffer): undefined {
    if (data.length > 0) return this.#reply(Option.list, Reply.invalid);
    const { name } = this.#options.served;
    this.#reply(Option.list, Reply.server, numberedText(Buffer.byteLength(name), name));
    return this.#reply(Option.list, Reply.ack);
  }

  #startTls(data: Buffer): Outcome | undefined {
    const { tls } = this.#options;
    if (tls === 'none') return this.#reply(Option.startTls, Reply.policy, 'this server has no certificate');
    if (tls === 'done' || data.length > 0) return this.#reply(Option.startTls, Reply.invalid);
    // They would count as said within TLS, and anybody may have put them there.
    if (this.#input.waitingBytes > 0) throw new ProtocolError('bytes came before TLS had begun');
    this.#input.detach();
    this.#reply(Option.startTls, Reply.ack);
    return { kind: 'tls' };
  }

  /** Of all that can be asked, name and sizes are told; the sizes unasked too, since they bind the client. */
  #info(option: number, data: Buffer): Outcome | undefined {
    const request = readInfoRequest(data);
    if (request === null) return this.#reply(option, Reply.invalid);
    const { served } = this.#options;
    if (!isNameOf(request.name, served))
      return this.#reply(option, Reply.unknownExport, 'no export has this name');
    if (option === Option.go && !this.#options.admit()) return this.#reply(option, Reply.policy, TOO_MANY);
    this.#reply(option, Reply.info, exportInfo(this.#facts()));
    if (request.kinds.includes(Info.name)) this.#reply(option, Reply.info, textInfo(Info.name, served.name));
    this.#reply(option, Reply.info, blockSizeInfo(...blockSizes(served.disk)));
    this.#reply(option, Reply.ack);
    return option === Option.go ? { kind: 'terms', terms: this.#terms() } : undefined;
  }

  #structuredReply(data: Buffer): undefined {
    if (data.length > 0) return this.#reply(Option.structuredReply, Reply.invalid);
    this.#isStructured = true;
    return this.#reply(Option.structuredReply, Reply.ack);
  }

  /** Each time anew: what was chosen before does not count any more. */
  #metaContext(option: number, data: Buffer): undefined {
    const isChoice = option === Option.setMetaContext;
    if (isChoice) this.#hasAllocation = false;
    const request = readMetaRequest(data);
    if (request === null || !this.#isStructured) return this.#reply(option, Reply.invalid);
    if (!isNameOf(request.name, this.#options.served)) return this.#reply(option, Reply.unknownExport);
    const listsAll = !isChoice && request.queries.length === 0;
    const isWanted = request.queries.some(
      (query) => query === ALLOCATION || (!isChoice && query === 'base:'),
    );
    if (listsAll || isWanted) {
      this.#reply(option, Reply.metaContext, numberedText(isChoice ? ALLOCATION_ID : 0, ALLOCATION));
      if (isChoice) this.#hasAllocation = true;
    }
    return this.#reply(option, Reply.ack);
  }

  #control(data: Buffer): Outcome | undefined {
    if (!this.#options.hasControl) return this.#reply(Option.control, Reply.unsupported);
    const command = readText(data);
    if (!isControlCommand(command)) return this.#reply(Option.control, Reply.invalid);
    if (!this.#options.admitCommand()) return this.#reply(Option.control, Reply.policy, TOO_MANY_COMMANDS);
    return { kind: 'control', command };
  }

  #facts() {
    const { disk, name } = this.#options.served;
    return { name, sizeBytes: disk.sizeBytes, flags: transmissionFlags(disk, this.#isStructured) };
  }

  #terms(): Terms {
    return { isStructured: this.#isStructured, hasAllocation: this.#hasAllocation };
  }

  #reply(option: number, type: number, data: Uint8Array | string = ''): undefined {
    this.#output.send(optionReply(option, type, data));
  }
}
