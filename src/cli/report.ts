/** The result lines on stdout. */
import type { CompactResult, EraseResult, PlanResult } from '../compactor/types.js';
import { checkReport, repairReport, repairsInWords } from './check-report.js';
import type { Colors } from './colors.js';
import type { Finished } from './outcome.js';
import { printable } from './printable.js';
import { countOf, humanBytes, humanDuration, humanPercent } from './units.js';

const RUN_AGAIN = 'the image is valid and what was gained is kept; run again to go on';

/** All lines for one image, without the last newline. */
export function reportLines(path: string, finished: Finished, colors: Colors): string {
  const name = printable(path);
  switch (finished.mode) {
    case 'compact':
      return `${name}: ${compactLine(finished.result, colors)}`;
    case 'erase':
      return `${name}: ${eraseLine(finished.result)}`;
    case 'plan':
      return `${name}: ${planLines(finished.result, colors)}`;
    case 'check':
      return checkReport(name, finished.result);
    case 'repair':
      return repairReport(name, finished.result);
  }
}

function compactLine(result: CompactResult, colors: Colors): string {
  if (result.outcome === 'clean') {
    const remains: string[] = [];
    if (result.excessClusters > 0) remains.push(`${countOf(result.excessClusters, 'cluster')} too long`);
    if (result.leaksLeft > 0) remains.push(`${countOf(result.leaksLeft, 'leaked cluster')} left`);
    const state =
      remains.length === 0 ? 'already compact' : `nothing more can be moved, ${remains.join(', ')}`;
    return `${humanBytes(result.lengthAfter)}, ${state}`;
  }
  if (result.outcome === 'below-threshold') return belowThresholdLine(result);
  const parts = [
    `${lengths(result)} (${gain('reclaimed', result, colors)})`,
    `moved ${humanBytes(result.bytesMoved)} in ${humanDuration(result.seconds)}`,
  ];
  if (result.repaired !== null) parts.push(`repaired ${repairsInWords(result.repaired)}`);
  if (result.leaksReclaimed > 0) parts.push(`${countOf(result.leaksReclaimed, 'leaked cluster')} freed`);
  if (result.preallocationReleased > 0)
    parts.push(`${countOf(result.preallocationReleased, 'preallocated cluster')} given up`);
  if (result.clustersErased > 0) parts.push(`${countOf(result.clustersErased, 'erased cluster')} kept`);
  return withStop(parts.join(', '), result.outcome, leftIn(result));
}

/** `4.0 GiB, left alone: 120.0 MiB (2.9%) to reclaim is below the threshold`. */
function belowThresholdLine({ lengthAfter, bytesLeftToReclaim, repaired }: CompactResult): string {
  // Rounded up, a gain just below the threshold would read as one that meets it.
  const percent = Math.floor((1000 * bytesLeftToReclaim) / Math.max(1, lengthAfter)) / 10;
  const share = percent === 0 && bytesLeftToReclaim > 0 ? '<0.1%' : `${percent.toFixed(1)}%`;
  const gain = `${humanBytes(bytesLeftToReclaim)} (${share})`;
  const line = `${humanBytes(lengthAfter)}, left alone: ${gain} to reclaim is below the threshold`;
  return repaired === null ? line : `${line}, repaired ${repairsInWords(repaired)}`;
}

function leftIn({ bytesLeftToReclaim, bytesLeftToMove }: CompactResult): string {
  if (bytesLeftToReclaim + bytesLeftToMove === 0) return '';
  return `; ${humanBytes(bytesLeftToReclaim)} left to reclaim, ${humanBytes(bytesLeftToMove)} to move`;
}

const STOPPED: Record<string, string> = { interrupted: 'interrupted', 'out-of-time': 'out of time' };

/** `line` alone for a run that came to its end. */
function withStop(line: string, outcome: string, left: string): string {
  const why = STOPPED[outcome];
  return why === undefined ? line : `${why}: ${line}${left}; ${RUN_AGAIN}`;
}

function eraseLine(result: EraseResult): string {
  if (result.outcome === 'clean') return 'nothing to erase';
  const how = result.method === 'punch' ? 'deallocating host blocks' : 'writing zeroes';
  const written = result.clustersErased - result.clustersAlreadyHoles;
  const parts = [
    `erased ${countOf(result.clustersErased, 'cluster')} (${humanBytes(result.clustersErased * result.clusterBytes)})`,
    `${written} by ${how}`,
    `${result.clustersAlreadyHoles} already holes`,
  ];
  if (result.leaksReclaimed > 0) parts.push(`${countOf(result.leaksReclaimed, 'leaked cluster')} freed`);
  const line = `${parts.join(', ')}, in ${humanDuration(result.seconds)}`;
  const left = result.clustersLeft > 0 ? `; ${countOf(result.clustersLeft, 'cluster')} left to erase` : '';
  return withStop(line, result.outcome, left);
}

function planLines(result: PlanResult, colors: Colors): string {
  const { clusters } = result;
  const rows: [string, string][] = [
    ['length before', exactBytes(result.lengthBefore)],
    ['length after', exactBytes(result.lengthAfter)],
    ['cluster size', exactBytes(result.clusterBytes)],
    ['clusters', String(clusters.total)],
    ['live', String(clusters.live)],
    ['junk', String(clusters.junk)],
    ['leaked', String(clusters.leaked)],
    ...rowOf('pinned', result.pinnedClusters),
    ...rowOf('empty tables', result.tablesReleased),
    ...rowOf('to give up', result.preallocationReleased),
    ['to move', String(result.clustersToMove)],
    [result.movesBy === 'sharing' ? 'to share' : 'to copy', exactBytes(result.bytesToCopy)],
  ];
  const table = rows.map(([label, value]) => `  ${label.padEnd(14)} ${value}`);
  return [`${lengths(result)} (${gain('would reclaim', result, colors)})`, ...table].join('\n');
}

/** Left out where there is nothing of the kind, as in most images. */
function rowOf(label: string, count: number): [string, string][] {
  return count === 0 ? [] : [[label, String(count)]];
}

function lengths(result: PlanResult): string {
  return `${humanBytes(result.lengthBefore)} -> ${humanBytes(result.lengthAfter)}`;
}

function gain(verb: string, result: PlanResult, colors: Colors): string {
  const bytes = result.lengthBefore - result.lengthAfter;
  if (bytes < 0) return `${humanBytes(-bytes)} longer`;
  const text = `${verb} ${humanBytes(bytes)}, ${humanPercent(bytes, result.lengthBefore)}`;
  return bytes > 0 ? colors.good(text) : text;
}

function exactBytes(bytes: number): string {
  const exact = countOf(bytes, 'byte');
  return bytes < 1024 ? exact : `${humanBytes(bytes)} (${exact})`;
}
