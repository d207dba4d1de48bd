/** What was measured, as a table and as lines of verdicts. */

const MIB = 2 ** 20;

/** A row for each rival of each case. */
export function table(results) {
  const head = [
    ...['case', 'on', 'tool', 'against', '', 'ratio', 'lowest..highest', 'cpu'],
    ...['written', 'must move', 'w/m', 'peak'],
  ];
  const rows = results.flatMap((result) =>
    result.rivals.map((rival, nth) => [
      ...(nth === 0 ? [result.case, result.fileSystem, seconds(result.seconds)] : ['', '', '']),
      seconds(rival.seconds),
      rival.name,
      rival.ratio.toFixed(2),
      `${Math.min(...rival.ratios).toFixed(2)}..${Math.max(...rival.ratios).toFixed(2)}`,
      Number.isNaN(rival.cpuRatio) ? '-' : rival.cpuRatio.toFixed(2),
      ...(nth === 0 ? volumesOf(result) : ['', '', '', '']),
    ]),
  );
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)));
  const line = (cells) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]))
      .join('  ')
      .trimEnd();
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

function volumesOf({ bytesWritten, mustMoveBytes, peakBytes }) {
  return [
    mib(bytesWritten),
    mib(mustMoveBytes),
    mustMoveBytes > 0 ? (bytesWritten / mustMoveBytes).toFixed(4) : '-',
    mib(peakBytes),
  ];
}

export function verdictLines(verdicts) {
  return verdicts
    .map(
      ({ fileSystem, case: name, what, value, verdict }) =>
        `${verdict.padEnd(7)} ${fileSystem.padEnd(6)} ${name}: ${what}: ${Number(value.toFixed(4))}`,
    )
    .join('\n');
}

function seconds(value) {
  return `${value.toFixed(3)} s`;
}

function mib(bytes) {
  return bytes === undefined || Number.isNaN(bytes) ? '-' : `${(bytes / MIB).toFixed(1)} MiB`;
}
