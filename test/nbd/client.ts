/** A client of tests: it says what it is told to, right or wrong. The numbers are the protocol's, written out once more. */
import type { Duplex } from 'node:stream';

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED: 8,
  LIST_META: 9,
  SET_META: 10,
};
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
};
export const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 };
export const ERR = { EPERM: 1, EIO: 5, EINVAL: 22, ENOSPC: 28, ENOTSUP: 95, ESHUTDOWN: 108 };
export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META: 4,
  UNSUP: 0x80000001,
  POLICY: 0x80000002,
  INVALID: 0x80000003,
  TLS_REQD: 0x80000005,
  UNKNOWN: 0x80000006,
  SHUTDOWN: 0x80000007,
  TOO_BIG: 0x80000009,
};

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

export const string32 = (text: string): Buffer =>
  Buffer.concat([u32(Buffer.byteLength(text)), Buffer.from(text)]);

export const optionBytes = (option: number, data: Uint8Array = Buffer.alloc(0)): Buffer =>
  Buffer.concat([Buffer.from('IHAVEOPT'), u32(option), u32(data.length), data]);

export const goData = (name = '', kinds: number[] = []): Buffer =>
  Buffer.concat([string32(name), u16(kinds.length), ...kinds.map(u16)]);

export const metaData = (name = '', queries: string[] = ['base:allocation']): Buffer =>
  Buffer.concat([string32(name), u32(queries.length), ...queries.map(string32)]);

export interface RequestFields {
  flags?: number;
  offset?: number | bigint;
  length?: number;
  data?: Uint8Array;
}

export const requestBytes = (command: number, cookie: number | bigint, fields: RequestFields = {}): Buffer =>
  Buffer.concat([
    u32(0x25609513),
    u16(fields.flags ?? 0),
    u16(command),
    u64(cookie),
    u64(fields.offset ?? 0),
    u32(fields.length ?? fields.data?.length ?? 0),
    fields.data ?? Buffer.alloc(0),
  ]);

export interface OptionAnswer {
  option: number;
  type: number;
  data: Buffer;
}

/** Of one request, once it is whole. */
export interface Answer {
  cookie: bigint;
  error: number;
  message: string;
  /** Of a read: with zeroes where holes were sent. */
  data: Buffer | null;
  /** `data 0+4096`, `hole 4096+65536`, in the order in which they came. */
  chunks: string[];
  extents: [lengthBytes: number, flags: number][];
}

export class Gone extends Error {}

export class Client {
  readonly stream: Duplex;
  isStructured = false;
  #chunks: Buffer[] = [];
  #waitingBytes = 0;
  #hasEnded = false;
  #wake: (() => void) | null = null;
  #cookie = 0n;
  /** Where and how long the reads are whose answers have not come. */
  readonly #reads = new Map<bigint, { offset: number; length: number }>();
  readonly #partial = new Map<bigint, Answer>();

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#waitingBytes += chunk.length;
      this.#wakeUp();
    });
    for (const event of ['end', 'close', 'error'] as const) {
      stream.on(event, () => {
        this.#hasEnded = true;
        this.#wakeUp();
      });
    }
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Throws Gone where the server has closed first. */
  async take(lengthBytes: number): Promise<Buffer> {
    while (this.#waitingBytes < lengthBytes) {
      if (this.#hasEnded) throw new Gone(`${this.#waitingBytes} of ${lengthBytes} bytes came`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = all.length > lengthBytes ? [all.subarray(lengthBytes)] : [];
    this.#waitingBytes -= lengthBytes;
    return all.subarray(0, lengthBytes);
  }

  /** Until the server closes; what came last. */
  async rest(): Promise<Buffer> {
    while (!this.#hasEnded) await new Promise<void>((resolve) => (this.#wake = resolve));
    return this.take(this.#waitingBytes);
  }

  send(...parts: Uint8Array[]): void {
    for (const part of parts) this.stream.write(part);
  }

  /** The server's flags. */
  async greet(flags = 3): Promise<number> {
    const greeting = await this.take(18);
    if (greeting.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new Error('no greeting');
    this.send(u32(flags));
    return greeting.readUInt16BE(16);
  }

  async optionAnswer(): Promise<OptionAnswer> {
    const head = await this.take(20);
    if (head.readBigUInt64BE() !== 0x3e889045565a9n) throw new Error('no reply to an option');
    return {
      option: head.readUInt32BE(8),
      type: head.readUInt32BE(12),
      data: await this.take(head.readUInt32BE(16)),
    };
  }

  /** All answers, the last of which ends it. */
  async option(option: number, data?: Uint8Array): Promise<OptionAnswer[]> {
    this.send(optionBytes(option, data));
    const answers: OptionAnswer[] = [];
    for (;;) {
      const answer = await this.optionAnswer();
      if (answer.option !== option) throw new Error(`an answer to option ${answer.option}`);
      answers.push(answer);
      if (answer.type === REP.ACK || answer.type >= 2 ** 31) break;
    }
    if (option === OPT.STRUCTURED && answers[0]!.type === REP.ACK) this.isStructured = true;
    return answers;
  }

  /** To the transmission, in the usual way. */
  async begin(wanted: { structured?: boolean; allocation?: boolean } = {}): Promise<this> {
    const { structured = true, allocation = structured } = wanted;
    await this.greet();
    if (structured) await this.option(OPT.STRUCTURED);
    if (allocation) await this.option(OPT.SET_META, metaData());
    const answers = await this.option(OPT.GO, goData());
    if (answers.at(-1)!.type !== REP.ACK) throw new Error('GO was refused');
    return this;
  }

  /** The cookie. */
  request(command: number, fields: RequestFields = {}): bigint {
    const cookie = ++this.#cookie;
    this.expectAnswer(command, cookie, fields);
    this.send(requestBytes(command, cookie, fields));
    if (command === CMD.DISC) this.stream.end();
    return cookie;
  }

  /** Of a request that is sent by other means. */
  expectAnswer(command: number, cookie: bigint, { offset = 0, length = 0 }: RequestFields): void {
    if (command === CMD.READ) this.#reads.set(cookie, { offset: Number(offset), length });
  }

  /** Sends, and waits for the answer to it, which must be the next. */
  async ask(command: number, fields: RequestFields = {}): Promise<Answer> {
    const cookie = this.request(command, fields);
    const answer = await this.answer();
    if (answer.cookie !== cookie) throw new Error(`the answer to ${answer.cookie}, not to ${cookie}`);
    return answer;
  }

  /** The next that is whole. */
  async answer(): Promise<Answer> {
    for (;;) {
      const answer = await this.#part();
      if (answer !== null) return answer;
    }
  }

  async #part(): Promise<Answer | null> {
    const magic = (await this.take(4)).readUInt32BE();
    if (magic === 0x67446698) return this.#simple(await this.take(12));
    if (magic !== 0x668e33ef || !this.isStructured) throw new Error(`magic ${magic.toString(16)}`);
    const head = await this.take(16);
    const [flags, type, cookie] = [head.readUInt16BE(0), head.readUInt16BE(2), head.readBigUInt64BE(4)];
    const payload = await this.take(head.readUInt32BE(12));
    const answer = this.#answerTo(cookie);
    this.#takeChunk(answer, type, payload);
    return (flags & 1) === 0 ? null : this.#whole(answer);
  }

  async #simple(head: Buffer): Promise<Answer> {
    const answer = this.#answerTo(head.readBigUInt64BE(4));
    answer.error = head.readUInt32BE(0);
    if (answer.data !== null) {
      if (this.isStructured) throw new Error('a simple answer to a read');
      if (answer.error === 0) answer.data = await this.take(answer.data.length);
    }
    return this.#whole(answer);
  }

  #answerTo(cookie: bigint): Answer {
    let answer = this.#partial.get(cookie);
    if (answer === undefined) {
      const length = this.#reads.get(cookie)?.length;
      // What no chunk fills is seen by this.
      const data = length === undefined ? null : Buffer.alloc(length, 0xee);
      answer = { cookie, error: 0, message: '', data, chunks: [], extents: [] };
      this.#partial.set(cookie, answer);
    }
    return answer;
  }

  #whole(answer: Answer): Answer {
    this.#partial.delete(answer.cookie);
    this.#reads.delete(answer.cookie);
    return answer;
  }

  #takeChunk(answer: Answer, type: number, payload: Buffer): void {
    const from = this.#reads.get(answer.cookie)?.offset ?? 0;
    if (type === 1) {
      const at = Number(payload.readBigUInt64BE()) - from;
      payload.copy(answer.data!, at, 8);
      answer.chunks.push(`data ${at}+${payload.length - 8}`);
    } else if (type === 2) {
      const [at, length] = [Number(payload.readBigUInt64BE()) - from, payload.readUInt32BE(8)];
      answer.data!.fill(0, at, at + length);
      answer.chunks.push(`hole ${at}+${length}`);
    } else if (type === 5) {
      if (payload.readUInt32BE() !== 1) throw new Error('another context');
      for (let at = 4; at < payload.length; at += 8)
        answer.extents.push([payload.readUInt32BE(at), payload.readUInt32BE(at + 4)]);
    } else if (type === 0x8001) {
      answer.error = payload.readUInt32BE();
      answer.message = payload.toString('utf8', 6, 6 + payload.readUInt16BE(4));
    } else if (type !== 0 || payload.length > 0) throw new Error(`chunk of type ${type}`);
  }
}
