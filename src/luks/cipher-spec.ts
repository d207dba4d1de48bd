/** Which ciphers are handled: AES as XTS or CBC, with the initial vectors that QEMU offers. */
import { type LuksHeader, unsupported } from '../format/luks.js';

export interface CipherSpec {
  mode: 'xts' | 'cbc';
  keyBytes: number;
  /** Of the initial vectors: `plain` counts sectors in 32 bits. `essiv` encrypts the count by a hash of the key. */
  vectors: 'plain' | 'plain64' | 'essiv';
  /** Of `essiv`. */
  vectorHash: string;
}

const KEY_BYTES = { xts: [32, 48, 64], cbc: [16, 32] };
/** Digests that are as long as a key of AES. */
const VECTOR_HASHES = ['sha256', 'md5'];
const HASHES = ['sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160', 'md5'];

/** Throws UNSUPPORTED, with the name of what is not handled. */
export function cipherSpec({ cipher, mode: name, keyBytes, hash }: LuksHeader): CipherSpec {
  const refusal = unsupported(
    `${cipher}-${name}, a key of ${keyBytes} bytes and the hash ${hash}, which is not handled`,
  );
  const [mode = '', rest = ''] = split(name, '-');
  const [vectors = '', vectorHash = ''] = split(rest, ':');
  if (cipher !== 'aes' || (mode !== 'xts' && mode !== 'cbc') || !KEY_BYTES[mode].includes(keyBytes))
    throw refusal;
  if (vectors !== 'plain' && vectors !== 'plain64' && vectors !== 'essiv') throw refusal;
  if (vectors === 'essiv' && !VECTOR_HASHES.includes(vectorHash)) throw refusal;
  if (!HASHES.includes(hash)) throw refusal;
  return { mode, keyBytes, vectors, vectorHash };
}

function split(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
}
