/** The progress display on a terminal: it leaves nothing behind but the reports, however small the terminal is. */
import fs from 'node:fs';
import { beforeEach, describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';
import { expectMinimal, makeHoley } from './images.js';
import { Screen, inTerminal } from './terminal.js';

const directory = temporaryDirectory();
const original = directory.path('original.qcow2');
const names = [...Array(6).keys()].map((i) => directory.path(`machine-with-a-long-name-仮想-${i}.qcow2`));

beforeEach(() => {
  if (!fs.existsSync(original)) makeHoley(original);
  for (const name of names) {
    fs.rmSync(name, { force: true });
    fs.copyFileSync(original, name);
  }
});

/** Reports on the screen, joined where the terminal has wrapped them. */
function reports(screen: Screen): string[] {
  return screen.text.replaceAll('\n', '').split(/(?<= in [0-9.]+ m?s)/);
}

describe.each([
  { columns: 200, rows: 24 },
  { columns: 40, rows: 4 },
  { columns: 12, rows: 3 },
])('on a terminal of $columns columns and $rows rows', (size) => {
  test('six images at a time leave six reports and nothing else', () => {
    // Slow enough to be seen.
    const args = ['--jobs', '6', '--limit-rate', '2M', ...names];
    const { status, output } = inTerminal(args, size);
    expect(status).toBe(0);
    expect(output).toContain('of 6 im');
    const screen = new Screen(size).write(output);
    const lines = reports(screen);
    expect(lines).toHaveLength(6);
    for (const name of names) {
      expect(lines.filter((line) => line.startsWith(`${name}: 1.0 MiB -> `))).toHaveLength(1);
      expectMinimal(name);
    }
  });

  test('no line of the display is wider than it', () => {
    // Without reports, whose lines may wrap.
    const args = ['--json', '--jobs', '6', '--limit-rate', '2M', ...names];
    const { output } = inTerminal(args, size);
    const screen = new Screen(size).write(output.slice(0, output.indexOf('{')));
    expect(screen.wraps).toBe(0);
    expect(screen.text).toBe('');
    expect(screen.highest).toBe(Math.min(7, size.rows - 1));
  });
});

test('one image has one line, with its state', () => {
  const size = { columns: 80, rows: 24 };
  const { output } = inTerminal(['--json', '--limit-rate', '500K', names[0]!], size);
  expect(output).toMatch(/machine-with-a-long-name-仮想-0\.qcow2: (planning|moving) \d+%, .* of .* KiB/);
  expect(output).not.toContain('images done');
  const screen = new Screen(size).write(output.slice(0, output.indexOf('{')));
  expect([screen.wraps, screen.highest]).toEqual([0, 1]);
});

test('what is stopped by time says so on its line, and leaves its report', () => {
  const size = { columns: 120, rows: 24 };
  const args = ['--jobs', '2', '--max-time', '1', '--limit-rate', '100K', ...names.slice(0, 3)];
  const { status, output } = inTerminal(args, size);
  expect(status).toBe(75);
  expect(output).toContain('time is up, stopping at the next barrier');
  const text = new Screen(size).write(output).text;
  expect(text.match(/not begun, the time was over/g)).toHaveLength(1);
  expect(text.replaceAll('\n', '').match(/: out of time(: | before)/g)).toHaveLength(2);
  expect(text).not.toContain('images done');
});
