/** What is served, and what clients may ask of it. */
import { TransmissionFlag as Flag, MOST_PAYLOAD_BYTES } from './protocol.js';
import type { ServedDisk } from './served-disk.js';

export interface Export {
  /** A client that names none gets it too. */
  name: string;
  disk: ServedDisk;
}

/** The protocol has no preferred size below it. */
const LEAST_PREFERRED_BYTES = 4096;

/** Least, preferred and most bytes of a request. */
export function blockSizes({ clusterBytes }: ServedDisk): [number, number, number] {
  return [1, Math.min(Math.max(clusterBytes, LEAST_PREFERRED_BYTES), MOST_PAYLOAD_BYTES), MOST_PAYLOAD_BYTES];
}

/** A flush of one connection covers what was written by all: they are over one disk. */
const ALWAYS = Flag.hasFlags | Flag.sendFlush | Flag.sendFua | Flag.sendCache | Flag.canMultiConn;
const WRITABLE = Flag.sendTrim | Flag.sendWriteZeroes | Flag.sendFastZero;

export function transmissionFlags({ isReadOnly }: ServedDisk, isStructured: boolean): number {
  return ALWAYS | (isReadOnly ? Flag.readOnly : WRITABLE) | (isStructured ? Flag.sendDf : 0);
}

export function isNameOf(name: string, served: Export): boolean {
  return name === served.name || name === '';
}
