/** The table, and what was measured held against the bounds. */

const MIB = 2 ** 20;

/** Each: what, on which case, and whether it holds. A bound on a missing figure is neither passed nor missed. */
const BOUNDS = [
  bound('half: wall time at most 0.70 x convert + sync', 'half', ({ ratio }) => ratio, 0.7),
  bound('half: bytes written at most 1.02 x what must move', 'half', writtenRatio, 1.02),
  bound('half: peak memory below 150 MiB', 'half', ({ peakBytes }) => peakBytes / MIB, 150),
  bound('tail: bytes written at most 1.02 x what must move', 'tail', writtenRatio, 1.02),
  bound(
    'clean: bytes written 0',
    'clean',
    ({ bytesWritten, touched }) => (touched ? Infinity : bytesWritten),
    0,
  ),
  bound(
    'clean: wall time at most 1.50 x (node -e 0 + read of the metadata)',
    'clean',
    ({ ratio }) => ratio,
    1.5,
  ),
  bound(
    'version: --version and --help load no engine',
    'version',
    ({ engineLoaded }) => engineLoaded.length,
    0,
  ),
];

function bound(what, name, measure, limit) {
  return { what, name, measure, limit };
}

function writtenRatio({ bytesWritten, mustMoveBytes }) {
  return bytesWritten / mustMoveBytes;
}

export function judge(results) {
  const verdicts = [];
  for (const { what, name, measure, limit } of BOUNDS) {
    const result = results.find((candidate) => candidate.case === name);
    if (result === undefined) continue;
    const value = measure(result);
    const verdict = Number.isNaN(value) ? 'unknown' : value <= limit ? 'pass' : 'MISS';
    verdicts.push({ what, value, limit, verdict });
  }
  return verdicts;
}

export function table(results) {
  const head = [
    'case',
    'tool',
    'against',
    '',
    'ratio',
    'lowest..highest',
    'written',
    'must move',
    'w/m',
    'peak',
  ];
  const rows = results.map((result) => [
    result.case,
    seconds(result.toolSeconds),
    seconds(result.otherSeconds),
    result.other,
    result.ratio.toFixed(2),
    `${Math.min(...result.ratios).toFixed(2)}..${Math.max(...result.ratios).toFixed(2)}`,
    Number.isNaN(result.cpuRatio) ? '-' : result.cpuRatio.toFixed(2),
    mib(result.bytesWritten),
    mib(result.mustMoveBytes),
    result.mustMoveBytes > 0 ? writtenRatio(result).toFixed(4) : '-',
    mib(result.peakBytes),
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)));
  const line = (cells) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]))
      .join('  ')
      .trimEnd();
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

export function verdictLines(verdicts) {
  return verdicts
    .map(({ what, value, verdict }) => `${verdict.padEnd(7)} ${what}: ${Number(value.toFixed(4))}`)
    .join('\n');
}

function seconds(value) {
  return `${value.toFixed(3)} s`;
}

function mib(bytes) {
  return bytes === undefined || Number.isNaN(bytes) ? '-' : `${(bytes / MIB).toFixed(1)} MiB`;
}
