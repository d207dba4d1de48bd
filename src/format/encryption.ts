/** The full disk encryption header (qcow2 specification, "Full disk encryption header pointer"). */
import { QcowError } from '../errors.js';
import { ENCRYPTION, EXTENSION, type Header, type HeaderExtension } from './header.js';
import { readWord, viewOf } from './words.js';

/** The LUKS header: contiguous clusters of the file, without which all data are lost (hazard 10.2). */
export interface EncryptionHeader {
  /** Byte position of the field in cluster 0 that holds its offset. */
  slot: number;
  offset: number;
  lengthBytes: number;
}

const EXTENSION_BYTES = 16;

/** Null where the method has none; throws where method and extension disagree, as QEMU does not open it then. */
export function encryptionHeader(
  header: Header,
  extensions: HeaderExtension[],
  cluster0: Uint8Array,
): EncryptionHeader | null {
  const found = extensions.filter(({ type }) => type === EXTENSION.encryption);
  const damaged = (what: string) =>
    new QcowError('CORRUPT', what, {
      where: found[0] === undefined ? 'header, byte 32' : `header, byte ${found[0].dataAt - 8}`,
      hint: 'the image was left untouched',
    });
  if (header.encryption !== ENCRYPTION.luks) {
    if (found.length > 0) throw damaged('the image has an encryption header, but is not encrypted with LUKS');
    return null;
  }
  const extension = found[0];
  if (extension === undefined)
    throw damaged('the image is encrypted with LUKS, but has no encryption header');
  if (found.length > 1) throw damaged('the image has more than one encryption header');
  if (extension.dataBytes !== EXTENSION_BYTES)
    throw damaged(`the encryption header extension has ${extension.dataBytes} bytes, not ${EXTENSION_BYTES}`);
  const view = viewOf(cluster0);
  const offset = readWord(view, extension.dataAt);
  const lengthBytes = readWord(view, extension.dataAt + 8);
  // The walk holds both against the file.
  if (!Number.isFinite(offset) || !Number.isFinite(lengthBytes) || offset === 0 || lengthBytes === 0)
    throw damaged('the encryption header has an impossible place or length');
  return { slot: extension.dataAt, offset, lengthBytes };
}
