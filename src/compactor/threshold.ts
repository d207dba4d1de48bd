/** Whether a gain is worth the writing. */
import { QcowError } from '../errors.js';

/** A gain that is smaller is passed up: in percent of the file's length, or in bytes. */
export type Threshold = { percent: number } | { bytes: number };

/** Whether a file of `lengthBefore` bytes that would become `lengthAfter` long stays as it is. */
export function isBelowThreshold(
  threshold: Threshold | undefined,
  { lengthBefore, lengthAfter }: { lengthBefore: number; lengthAfter: number },
): boolean {
  if (threshold === undefined) return false;
  const gain = lengthBefore - lengthAfter;
  return 'percent' in threshold ? gain * 100 < threshold.percent * lengthBefore : gain < threshold.bytes;
}

/** Throws for what is no threshold. */
export function requireThreshold(threshold: Threshold | undefined): void {
  if (threshold === undefined) return;
  if ('percent' in threshold) {
    const { percent } = threshold;
    if (percent >= 0 && percent <= 100) return;
    throw new QcowError('USAGE', `the percent of a threshold must be from 0 to 100; got ${percent}`);
  }
  const { bytes } = threshold;
  if (Number.isSafeInteger(bytes) && bytes >= 0) return;
  throw new QcowError('USAGE', `the bytes of a threshold must be a whole number, 0 or more; got ${bytes}`);
}
