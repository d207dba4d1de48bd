/** Which requests are refused before the disk hears of them, and how. Pure. */
import { type Request } from './transmission-codec.js';
import type { Terms } from './haggling.js';
import { Command, CommandFlag as Flag, MOST_PAYLOAD_BYTES, NbdError } from './protocol.js';
import type { ServedDisk } from './served-disk.js';

/** FUA is allowed with all: clients are known to set it where it says nothing. */
const ALLOWED_FLAGS: Readonly<Record<number, number>> = {
  [Command.read]: Flag.fua | Flag.dontFragment,
  [Command.write]: Flag.fua,
  [Command.flush]: Flag.fua,
  [Command.trim]: Flag.fua,
  [Command.cache]: Flag.fua,
  [Command.writeZeroes]: Flag.fua | Flag.noHole | Flag.fastZero,
  [Command.blockStatus]: Flag.fua | Flag.reqOne,
};

/** An NBD error; 0 where the request is in order. */
export function refusalOf(request: Request, disk: ServedDisk, terms: Terms): number {
  const { command, flags, offset, lengthBytes } = request;
  const allowed = ALLOWED_FLAGS[command];
  if (allowed === undefined || (flags & ~allowed) !== 0) return NbdError.EINVAL;
  if ((flags & Flag.dontFragment) !== 0 && !terms.isStructured) return NbdError.EINVAL;
  const changes = command === Command.write || command === Command.writeZeroes || command === Command.trim;
  if (changes && disk.isReadOnly) return NbdError.EPERM;
  if (command === Command.flush) return offset === 0 && lengthBytes === 0 ? 0 : NbdError.EINVAL;
  if (command === Command.blockStatus && (!terms.hasAllocation || lengthBytes === 0)) return NbdError.EINVAL;
  const hasPayload = command === Command.read || command === Command.write;
  if (hasPayload && lengthBytes > MOST_PAYLOAD_BYTES) return NbdError.EINVAL;
  if (offset + lengthBytes <= disk.sizeBytes) return 0;
  return command === Command.write || command === Command.writeZeroes ? NbdError.ENOSPC : NbdError.EINVAL;
}
