/** The report of --check, in the words of `qemu-img check`, so that scripts and people find what they know. */
import type { CheckResult } from '../compactor/types.js';
import { printable } from './printable.js';

/** `name` is already printable. */
export function checkReport(name: string, result: CheckResult): string {
  const lines = [`${name}:`, ...result.findings.map(printable)];
  const unnamed = result.corruptions + result.leaks - result.findings.length;
  if (result.findings.length > 0 && unnamed > 0) lines.push(`... and ${unnamed} more`);
  if (result.corruptions > 0) {
    lines.push(
      `${result.corruptions} errors were found on the image.`,
      'Data may be corrupted, or further writes to the image may corrupt it.',
    );
  }
  if (result.leaks > 0) {
    lines.push(
      `${result.leaks} leaked clusters were found on the image.`,
      'This means waste of disk space, but no harm to data.',
    );
  }
  if (result.corruptions === 0 && result.leaks === 0) lines.push('No errors were found on the image.');
  return lines.join('\n');
}
