/** Bytes of the transmission: requests, and the two kinds of reply. Pure. */
import { TWO_32, highHalf, lowHalf } from '../format/words.js';
import { CHUNK_DONE, CHUNK_MAGIC, Chunk, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC } from './protocol.js';

export const SIMPLE_BYTES = 16;
export const CHUNK_BYTES = 20;
/** A chunk of data begins with its place on the disk; a hole is nothing but its place and length. */
export const DATA_HEAD_BYTES = CHUNK_BYTES + 8;
export const HOLE_BYTES = CHUNK_BYTES + 12;

/** Longest text that goes with an error. */
const MOST_MESSAGE_BYTES = 1024;

/** The client's name for a request, which its replies repeat: 64 bits. */
export interface Cookie {
  cookieHigh: number;
  cookieLow: number;
}

export interface Request extends Cookie {
  flags: number;
  command: number;
  /** Beyond 2^53 not exact, which no disk is large enough to tell. */
  offset: number;
  lengthBytes: number;
}

/** Null where the magic is wrong. */
export function readRequest(bytes: Buffer): Request | null {
  if (bytes.readUInt32BE(0) !== REQUEST_MAGIC) return null;
  return {
    flags: bytes.readUInt16BE(4),
    command: bytes.readUInt16BE(6),
    cookieHigh: bytes.readUInt32BE(8),
    cookieLow: bytes.readUInt32BE(12),
    offset: bytes.readUInt32BE(16) * TWO_32 + bytes.readUInt32BE(20),
    lengthBytes: bytes.readUInt32BE(24),
  };
}

export function writeSimpleHead(bytes: Buffer, at: number, cookie: Cookie, error: number): number {
  bytes.writeUInt32BE(SIMPLE_REPLY_MAGIC, at);
  bytes.writeUInt32BE(error, at + 4);
  bytes.writeUInt32BE(cookie.cookieHigh, at + 8);
  bytes.writeUInt32BE(cookie.cookieLow, at + 12);
  return at + SIMPLE_BYTES;
}

export function simpleReply(cookie: Cookie, error: number): Buffer {
  const bytes = Buffer.allocUnsafe(SIMPLE_BYTES);
  writeSimpleHead(bytes, 0, cookie, error);
  return bytes;
}

function writeChunkHead(
  bytes: Buffer,
  at: number,
  cookie: Cookie,
  [type, flags, payloadBytes]: readonly [number, number, number],
): number {
  bytes.writeUInt32BE(CHUNK_MAGIC, at);
  bytes.writeUInt16BE(flags, at + 4);
  bytes.writeUInt16BE(type, at + 6);
  bytes.writeUInt32BE(cookie.cookieHigh, at + 8);
  bytes.writeUInt32BE(cookie.cookieLow, at + 12);
  bytes.writeUInt32BE(payloadBytes, at + 16);
  return at + CHUNK_BYTES;
}

/** Where the data of the chunk begin. */
export function writeDataHead(
  bytes: Buffer,
  at: number,
  cookie: Cookie,
  { offset, lengthBytes }: { offset: number; lengthBytes: number },
): number {
  const behind = writeChunkHead(bytes, at, cookie, [Chunk.offsetData, 0, 8 + lengthBytes]);
  return writePlace(bytes, behind, offset);
}

/** The end of the chunk. */
export function writeHole(
  bytes: Buffer,
  at: number,
  cookie: Cookie,
  { offset, lengthBytes }: { offset: number; lengthBytes: number },
): number {
  const behind = writeChunkHead(bytes, at, cookie, [Chunk.offsetHole, 0, HOLE_BYTES - CHUNK_BYTES]);
  return bytes.writeUInt32BE(lengthBytes, writePlace(bytes, behind, offset));
}

/** Makes the chunk that begins at `at` the last one of its reply. */
export function markDone(bytes: Buffer, at: number): void {
  bytes.writeUInt16BE(CHUNK_DONE, at + 4);
}

export function doneChunk(cookie: Cookie): Buffer {
  const bytes = Buffer.allocUnsafe(CHUNK_BYTES);
  writeChunkHead(bytes, 0, cookie, [Chunk.none, CHUNK_DONE, 0]);
  return bytes;
}

export function errorChunk(cookie: Cookie, error: number, message: string): Buffer {
  const text = Buffer.from(message).subarray(0, MOST_MESSAGE_BYTES);
  const bytes = Buffer.allocUnsafe(CHUNK_BYTES + 6 + text.length);
  const at = writeChunkHead(bytes, 0, cookie, [Chunk.error, CHUNK_DONE, 6 + text.length]);
  bytes.writeUInt32BE(error, at);
  bytes.writeUInt16BE(text.length, at + 4);
  bytes.set(text, at + 6);
  return bytes;
}

export interface Extent {
  lengthBytes: number;
  flags: number;
}

export function blockStatusChunk(cookie: Cookie, contextId: number, extents: readonly Extent[]): Buffer {
  const payload = 4 + 8 * extents.length;
  const bytes = Buffer.allocUnsafe(CHUNK_BYTES + payload);
  let at = writeChunkHead(bytes, 0, cookie, [Chunk.blockStatus, CHUNK_DONE, payload]);
  at = bytes.writeUInt32BE(contextId, at);
  for (const { lengthBytes, flags } of extents) {
    at = bytes.writeUInt32BE(lengthBytes, at);
    at = bytes.writeUInt32BE(flags, at);
  }
  return bytes;
}

function writePlace(bytes: Buffer, at: number, offset: number): number {
  bytes.writeUInt32BE(highHalf(offset), at);
  return bytes.writeUInt32BE(lowHalf(offset), at + 4);
}
