import { expect, test } from 'vitest';
import { ProgressText } from '../../src/cli/progress-text.js';

const MIB = 1024 ** 2;

test('a move names percent, bytes, rate and time left', () => {
  const text = new ProgressText();
  text.describe({ phase: 'move', percent: 1, bytesDone: 0, bytesTotal: 1024 * MIB }, 100);
  expect(
    text.describe({ phase: 'move', percent: 25, bytesDone: 256 * MIB, bytesTotal: 1024 * MIB }, 102),
  ).toBe('moving 25%, 256.0 MiB of 1.0 GiB, 128.0 MiB/s, 6 s left');
});

test('100% is shown only when it is true', () => {
  const text = new ProgressText();
  expect(text.describe({ phase: 'finish', percent: 99.99, bytesDone: 0, bytesTotal: 0 }, 0)).toBe(
    'finishing 99%',
  );
  expect(text.describe({ phase: 'finish', percent: 100, bytesDone: 0, bytesTotal: 0 }, 0)).toBe(
    'finishing 100%',
  );
});

test('a new phase starts a new rate', () => {
  const text = new ProgressText();
  text.describe({ phase: 'walk', percent: 1, bytesDone: 0, bytesTotal: 10 * MIB }, 0);
  expect(text.describe({ phase: 'move', percent: 10, bytesDone: 5 * MIB, bytesTotal: 10 * MIB }, 10)).toBe(
    'moving 10%, 5.0 MiB of 10.0 MiB',
  );
});
