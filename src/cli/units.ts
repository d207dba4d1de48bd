/** Numbers as people read them. Exact figures are in --json. */

const BINARY_UNITS = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes with one decimal: `512 B`, `10.0 GiB`. */
export function humanBytes(bytes: number): string {
  if (bytes < 1024) return `${Math.round(bytes)} B`;
  let value = bytes;
  let unit = '';
  for (const next of BINARY_UNITS) {
    value /= 1024;
    unit = next;
    // 1023.96 KiB would be rounded to `1024.0 KiB`.
    if (value < 1023.95) break;
  }
  return `${value.toFixed(1)} ${unit}`;
}

/** `512.0 MiB/s`. */
export function humanRate(bytesPerSecond: number): string {
  return `${humanBytes(bytesPerSecond)}/s`;
}

/** `120 ms`, `4.2 s`, `42 s`, `3 min 5 s`, `2 h 3 min`. */
export function humanDuration(seconds: number): string {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** `58%`; a part that is not nothing never reads as 0%, nor one that is not all as 100%. */
export function humanPercent(part: number, whole: number): string {
  if (whole <= 0 || part <= 0) return '0%';
  const percent = Math.round((part / whole) * 100);
  if (percent === 0) return '<1%';
  if (percent >= 100 && part < whole) return '>99%';
  return `${percent}%`;
}

/** `1 cluster`, `12 clusters`. */
export function countOf(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
