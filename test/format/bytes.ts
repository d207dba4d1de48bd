/** Bytes from hex, blanks and line ends ignored. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replace(/\s/g, ''), 'hex'));
}

/** Fields of hex beside what each means, joined. */
export function golden(...fields: readonly (readonly [bytes: string, meaning: string])[]): Uint8Array {
  return hex(fields.map(([bytes]) => bytes).join(''));
}

/** `bytes` with `text` (hex) at `at`. */
export function patched(bytes: Uint8Array, at: number, text: string): Uint8Array {
  const result = bytes.slice();
  result.set(hex(text), at);
  return result;
}
