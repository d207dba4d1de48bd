/** What the spinner says. Pure: the clock is passed in. */
import type { Phase, Progress } from '../compactor/types.js';
import { humanBytes, humanDuration, humanRate } from './units.js';

const PHASE_NAME: Record<Phase, string> = {
  walk: 'reading metadata',
  repair: 'repairing',
  plan: 'planning',
  erase: 'erasing',
  move: 'moving',
  finish: 'finishing',
};

/** Rates over less than this are noise. */
const SETTLE_SECONDS = 0.5;

/** `moving 42%, 1.2 GiB of 3.1 GiB, 512.0 MiB/s, 4 s left`. */
export class ProgressText {
  #phase: Phase | undefined;
  #startSeconds = 0;
  #startBytes = 0;
  #lastBytes = 0;

  /** `nowSeconds` is of any monotonic clock. */
  describe(progress: Progress, nowSeconds: number): string {
    if (progress.phase !== this.#phase || progress.bytesDone < this.#lastBytes) {
      this.#phase = progress.phase;
      this.#startSeconds = nowSeconds;
      this.#startBytes = progress.bytesDone;
    }
    this.#lastBytes = progress.bytesDone;

    // Rounded down: 100% is shown only when it is true.
    const parts = [`${PHASE_NAME[progress.phase]} ${Math.floor(progress.percent)}%`];
    if (progress.bytesTotal > 0) {
      parts.push(`${humanBytes(progress.bytesDone)} of ${humanBytes(progress.bytesTotal)}`);
      parts.push(...this.#pace(progress, nowSeconds));
    }
    return parts.join(', ');
  }

  #pace(progress: Progress, nowSeconds: number): string[] {
    const seconds = nowSeconds - this.#startSeconds;
    const bytes = progress.bytesDone - this.#startBytes;
    const bytesLeft = progress.bytesTotal - progress.bytesDone;
    if (seconds < SETTLE_SECONDS || bytes <= 0 || bytesLeft <= 0) return [];
    const rate = bytes / seconds;
    const secondsLeft = Math.max(1, Math.round(bytesLeft / rate));
    const timeLeft = secondsLeft < 60 ? `${secondsLeft} s` : humanDuration(secondsLeft);
    return [humanRate(rate), `${timeLeft} left`];
  }
}
