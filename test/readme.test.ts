import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { EXIT_STATUS } from '../src/errors.js';

function textOf(path: string): string {
  return readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');
}

/** The lines of each `sh` block of the quick start. */
function quickStart(): string[][] {
  const section = textOf('README.md').split('\n## Quick start\n')[1]?.split('\n## ')[0] ?? '';
  return [...section.matchAll(/```sh\n([^]*?)```/g)].map((match) => (match[1] ?? '').trim().split('\n'));
}

test('the quick start is two blocks of one command line each', () => {
  expect(quickStart().map((lines) => lines.length)).toEqual([1, 1]);
});

test('.ci/run runs the command that the README gives for the tests', () => {
  const command = textOf('.ci/run').trim().split('\n').at(-1);
  expect([command]).toEqual(quickStart()[1]);
});

test('docs/exit-codes.md has a row for every error code, with its status', () => {
  const table = textOf('docs/exit-codes.md');
  for (const [code, status] of Object.entries(EXIT_STATUS)) {
    expect(table).toMatch(new RegExp(`^\\| ${status} \\| \`${code}\` \\|`, 'm'));
  }
});
