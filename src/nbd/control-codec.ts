/** Bytes of the negotiation as a client that commands the server sees them. Pure. */
import { viewOf } from '../format/words.js';
import type { ControlCommand } from './control.js';
import { HandshakeFlag, MAGIC, OPTION_BYTES, Option } from './protocol.js';

/** Of a server that haggles. */
export function isGreeting(bytes: Uint8Array): boolean {
  const view = viewOf(bytes);
  const words = [...MAGIC.greeting, ...MAGIC.option];
  const isNbd = words.every((word, i) => view.getUint32(4 * i) === word);
  return isNbd && (view.getUint16(16) & HandshakeFlag.fixedNewstyle) !== 0;
}

/** The flags of the client, and its one option. */
export function controlRequest(command: ControlCommand): Uint8Array {
  const data = Buffer.from(command);
  const bytes = Buffer.alloc(4 + OPTION_BYTES + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, HandshakeFlag.fixedNewstyle);
  view.setUint32(4, MAGIC.option[0]);
  view.setUint32(8, MAGIC.option[1]);
  view.setUint32(12, Option.control);
  view.setUint32(16, data.length);
  bytes.set(data, 4 + OPTION_BYTES);
  return bytes;
}

/** Null where it is no reply to this option. */
export function readReplyHeader(bytes: Uint8Array): { type: number; lengthBytes: number } | null {
  const view = viewOf(bytes);
  const [high, low] = MAGIC.optionReply;
  const isOurs =
    view.getUint32(0) === high && view.getUint32(4) === low && view.getUint32(8) === Option.control;
  return isOurs ? { type: view.getUint32(12), lengthBytes: view.getUint32(16) } : null;
}
