/** The reports of --check and --repair, in the words of `qemu-img check`: scripts and people find what they know. */
import type { CheckResult, RepairResult, Repairs } from '../compactor/types.js';
import { printable } from './printable.js';
import { countOf } from './units.js';

/** `name` is already printable. */
export function checkReport(name: string, result: CheckResult): string {
  const { findings, corruptions, leaks } = result;
  return [`${name}:`, ...findingLines(findings, corruptions + leaks), ...stateLines(result)].join('\n');
}

function findingLines(findings: readonly string[], total: number): string[] {
  const unnamed = total - findings.length;
  return [
    ...findings.map(printable),
    ...(findings.length > 0 && unnamed > 0 ? [`... and ${unnamed} more`] : []),
  ];
}

function stateLines(result: Pick<CheckResult, 'corruptions' | 'leaks'>): string[] {
  const lines: string[] = [];
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
  return lines;
}

/** What was found, what was done, and what is there now. */
export function repairReport(name: string, result: RepairResult): string {
  const { findings, corruptionsFound, leaksFound } = result;
  const lines = [`${name}:`, ...findingLines(findings, corruptionsFound + leaksFound)];
  if (result.outcome === 'interrupted') lines.push('Interrupted; repair it again to go on.');
  else if (result.outcome === 'out-of-time') lines.push('Out of time; repair it again to go on.');
  else {
    if (result.outcome === 'repaired') lines.push(`Repaired: ${repairsInWords(result)}.`);
    lines.push(...stateLines(result));
  }
  return lines.join('\n');
}

/** `3 errors and 2 leaked clusters, the mark \`dirty\` cleared`. */
export function repairsInWords({ corruptionsFound, leaksFound, marksCleared }: Repairs): string {
  const counts: string[] = [];
  if (corruptionsFound > 0) counts.push(countOf(corruptionsFound, 'error'));
  if (leaksFound > 0) counts.push(countOf(leaksFound, 'leaked cluster'));
  const marks = marksCleared.map((mark) => `the mark \`${mark}\` cleared`);
  const parts = [...(counts.length > 0 ? [counts.join(' and ')] : []), ...marks];
  return parts.length > 0 ? parts.join(', ') : 'refcounts beyond the end of the file';
}
