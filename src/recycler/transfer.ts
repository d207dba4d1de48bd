/** What the guest's data need on their way to another place in the file, so that they mean the same there. */
export interface Transfer {
  /** Zeroes mean the same everywhere: a hole of the host file may stay one (I10). */
  readonly keepsHoles: boolean;
  /** Makes of bytes that lay at offset `from` those for offset `to`, in place; whole clusters, or sectors of them. */
  transform(bytes: Uint8Array, from: number, to: number): void;
}

/** Of an image whose data may lie anywhere. */
export const AS_IT_IS: Transfer = { keepsHoles: true, transform: () => undefined };
