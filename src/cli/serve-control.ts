/** Answers `qcow-compact status` and `qcow-compact now`. */
import type { Qcow2Disk } from '../disk/qcow2-disk.js';
import { QcowError } from '../errors.js';
import type { Control, Facts } from '../nbd/control.js';
import { describeFailure, type Failure } from './outcome.js';
import type { StatusFacts } from './serve-status.js';
import { UsageError } from './usage-error.js';

/** Between two tellings of how far a compaction is. */
const TELL_EVERY_MS = 250;

/** What `now` answers at its end. */
export interface NowFacts {
  status: StatusFacts;
  /** Bytes that the file has become shorter by, and seconds that it took. */
  bytesReclaimed: number;
  seconds: number;
}

/** Of a wrong command line too. */
export function failureOf(error: unknown): Failure {
  if (error instanceof UsageError) {
    const { code, message, exitStatus } = error;
    return { code, message, exitStatus };
  }
  return describeFailure(error, 'compact', { QcowError });
}

export function controlOf(disk: Qcow2Disk, status: () => StatusFacts): Control {
  return {
    async run(command, tell) {
      if (command === 'status') return asFacts(status());
      const timer = setInterval(() => {
        if (!tell(asFacts(status()))) clearInterval(timer);
      }, TELL_EVERY_MS);
      const began = process.uptime();
      try {
        const bytesReclaimed = await disk.compactNow();
        const facts: NowFacts = { status: status(), bytesReclaimed, seconds: process.uptime() - began };
        return asFacts(facts);
      } finally {
        clearInterval(timer);
      }
    },
    failureFacts: (error) => asFacts(failureOf(error)),
  };
}

function asFacts(facts: object): Facts {
  return { ...facts };
}
