/** A reader that goes away (`| head`) must not stop a compaction half-way. */

export interface OutputGuard {
  /**
   * Waits until stdout took everything, at most `mostMs`; a report that could not be written is a failure (status 1), one
   * that nobody takes is not.
   */
  statusAfterFlush(status: number, mostMs?: number): Promise<number>;
}

export function survivePipes(): OutputGuard {
  let lost: NodeJS.ErrnoException | undefined;
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') lost = error;
  });
  process.stderr.on('error', () => undefined);

  return {
    async statusAfterFlush(status, mostMs) {
      await new Promise<void>((resolve) => {
        process.stdout.write('', () => resolve());
        if (mostMs !== undefined) setTimeout(resolve, mostMs).unref();
      });
      if (lost === undefined) return status;
      process.stderr.write(`qcow-compact: cannot write the report to stdout: ${lost.code ?? lost.message}\n`);
      return status === 0 ? 1 : status;
    },
  };
}
