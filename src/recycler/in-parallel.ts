/** A bounded number of workers over one row of pieces, each with a buffer of its own. */

/**
 * Calls `work` for each piece, `workers` at a time; the first failure ends it. All calls settle before the error
 * goes up: no write is under way when the caller takes back what it began.
 */
export async function inParallel<Piece>(
  pieces: Iterable<Piece>,
  workers: number,
  bufferBytes: number,
  work: (piece: Piece, buffer: Uint8Array) => Promise<void>,
): Promise<void> {
  const iterator = pieces[Symbol.iterator]();
  let failed = false;
  const worker = async () => {
    let buffer: Uint8Array | null = null;
    while (!failed) {
      const next = iterator.next();
      if (next.done === true) return;
      buffer ??= new Uint8Array(bufferBytes);
      try {
        await work(next.value, buffer);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: workers }, worker));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
