/** Bytes of the negotiation: what the server says, and what a client's options hold. Pure. */
import { viewOf, writeWord } from '../format/words.js';
import {
  GREETING_BYTES,
  HandshakeFlag,
  Info,
  MAGIC,
  MOST_STRING_BYTES,
  OPTION_BYTES,
  OPTION_REPLY_BYTES,
} from './protocol.js';

/** They end the reply to the oldest way of choosing an export, unless the client does without. */
const EXPORT_PADDING_BYTES = 124;

/** Of all text fields. */
const TEXT = new TextDecoder('utf-8', { fatal: true });

export interface OptionHeader {
  option: number;
  lengthBytes: number;
}

/** What a client that has chosen an export learns of it. */
export interface ExportFacts {
  name: string;
  sizeBytes: number;
  flags: number;
}

export function greeting(): Uint8Array {
  const bytes = Buffer.alloc(GREETING_BYTES);
  const view = viewOf(bytes);
  writeHalves(view, 0, MAGIC.greeting);
  writeHalves(view, 8, MAGIC.option);
  view.setUint16(16, HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes);
  return bytes;
}

/** Null where the magic is wrong. */
export function readOptionHeader(bytes: Uint8Array): OptionHeader | null {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== MAGIC.option[0] || view.getUint32(4) !== MAGIC.option[1]) return null;
  return { option: view.getUint32(8), lengthBytes: view.getUint32(OPTION_BYTES - 4) };
}

export function optionReply(option: number, type: number, data: Uint8Array | string = ''): Uint8Array {
  const payload = Buffer.from(data as string);
  const bytes = Buffer.alloc(OPTION_REPLY_BYTES + payload.length);
  const view = viewOf(bytes);
  writeHalves(view, 0, MAGIC.optionReply);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, payload.length);
  bytes.set(payload, OPTION_REPLY_BYTES);
  return bytes;
}

/** The end of a negotiation by the name alone, which has no room for an error. */
export function exportNameReply({ sizeBytes, flags }: ExportFacts, withPadding: boolean): Uint8Array {
  const bytes = Buffer.alloc(10 + (withPadding ? EXPORT_PADDING_BYTES : 0));
  const view = viewOf(bytes);
  writeWord(view, 0, sizeBytes);
  view.setUint16(8, flags);
  return bytes;
}

export function exportInfo({ sizeBytes, flags }: ExportFacts): Uint8Array {
  const bytes = Buffer.alloc(12);
  const view = viewOf(bytes);
  view.setUint16(0, Info.export);
  writeWord(view, 2, sizeBytes);
  view.setUint16(10, flags);
  return bytes;
}

export function blockSizeInfo(least: number, preferred: number, most: number): Uint8Array {
  const bytes = Buffer.alloc(14);
  const view = viewOf(bytes);
  view.setUint16(0, Info.blockSize);
  for (const [i, size] of [least, preferred, most].entries()) view.setUint32(2 + 4 * i, size);
  return bytes;
}

export function textInfo(kind: number, text: string): Uint8Array {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(kind);
  return Buffer.concat([head, Buffer.from(text)]);
}

/** A number and a text: an export in a list (its name's length comes first), or a metadata context (its own number). */
export function numberedText(number: number, text: string): Uint8Array {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(number);
  return Buffer.concat([head, Buffer.from(text)]);
}

/** A text field by itself; null where it is no UTF-8, or too long. */
export function readText(bytes: Uint8Array): string | null {
  if (bytes.length > MOST_STRING_BYTES) return null;
  try {
    return TEXT.decode(bytes);
  } catch {
    return null;
  }
}

/** Of INFO and GO: which export, and what is asked about it. Null where it is malformed. */
export function readInfoRequest(data: Uint8Array): { name: string; kinds: number[] } | null {
  const fields = new Fields(data);
  const name = fields.text();
  const count = fields.number(2);
  const kinds: number[] = [];
  for (let i = 0; i < (count ?? 0); i++) kinds.push(fields.number(2) ?? NaN);
  return name !== null && count !== null && fields.areComplete() ? { name, kinds } : null;
}

/** Of LIST_META_CONTEXT and SET_META_CONTEXT. Null where it is malformed. */
export function readMetaRequest(data: Uint8Array): { name: string; queries: string[] } | null {
  const fields = new Fields(data);
  const name = fields.text();
  const count = fields.number(4);
  if (name === null || count === null) return null;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    const query = fields.text();
    // A count that the data do not bear out ends here.
    if (query === null) return null;
    queries.push(query);
  }
  return fields.areComplete() ? { name, queries } : null;
}

/** Numbers and texts one after the other; null once there is less than asked for. */
class Fields {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Uint8Array) {
    this.#data = Buffer.from(data.buffer, data.byteOffset, data.length);
  }

  number(bytes: 2 | 4): number | null {
    if (this.#at + bytes > this.#data.length) return this.#runOut();
    const value = this.#data.readUIntBE(this.#at, bytes);
    this.#at += bytes;
    return value;
  }

  text(): string | null {
    const length = this.number(4);
    if (length === null || this.#at + length > this.#data.length) return this.#runOut();
    const text = readText(this.#data.subarray(this.#at, this.#at + length));
    this.#at += length;
    return text;
  }

  /** Nothing was missing, and nothing is left. */
  areComplete(): boolean {
    return this.#at === this.#data.length;
  }

  #runOut(): null {
    this.#at = Infinity;
    return null;
  }
}

function writeHalves(view: DataView, at: number, [high, low]: readonly [number, number]): void {
  view.setUint32(at, high);
  view.setUint32(at + 4, low);
}
