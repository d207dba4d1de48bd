import { describe, expect, test } from 'vitest';
import { progressLines, type Row } from '../../src/cli/progress-lines.js';

const WIDE = { columns: 80, rows: 24 };

function rows(count: number): Row[] {
  return Array.from({ length: count }, (_, index) => ({ name: `vm${index}.qcow2`, state: 'moving 42%' }));
}

test('one image alone has one line', () => {
  expect(progressLines(rows(1), 0, 1, WIDE)).toEqual(['vm0.qcow2: moving 42%']);
});

test('of several there is a line for the whole, and one for each at work', () => {
  expect(progressLines(rows(2), 3, 7, WIDE)).toEqual([
    '3 of 7 images done',
    'vm0.qcow2: moving 42%',
    'vm1.qcow2: moving 42%',
  ]);
});

describe('a terminal that is too low', () => {
  test.each([
    [5, ['3 of 50 images done', 'vm0.qcow2: moving 42%', 'vm1.qcow2: moving 42%', '... and 38 more']],
    [3, ['3 of 50 images done', '... and 40 more']],
    [2, ['3 of 50 images done']],
    [1, ['3 of 50 images done']],
    [0, ['3 of 50 images done']],
  ])('of %d rows says how many more there are', (height, lines) => {
    expect(progressLines(rows(40), 3, 50, { columns: 80, rows: height })).toEqual(lines);
  });

  test('that just fits hides nothing', () => {
    expect(progressLines(rows(3), 0, 3, { columns: 80, rows: 5 })).toHaveLength(4);
    expect(progressLines(rows(3), 0, 3, { columns: 80, rows: 5 }).at(-1)).toContain('vm2');
  });
});

describe('a line that is too long', () => {
  const cut = (name: string, columns: number) =>
    progressLines([{ name, state: 'x' }], 0, 1, { columns, rows: 24 })[0]!;

  test('is cut so that the sign before it and the cursor behind it have room', () => {
    expect(cut('a'.repeat(100), 20)).toBe('a'.repeat(17));
    expect(cut('a'.repeat(14), 20)).toBe(`${'a'.repeat(14)}: x`);
  });

  test.each(['仮想', '한국', '💾', 'ｗ'])('counts %s as two columns', (character) => {
    const shown = [...cut(character.repeat(50), 20)];
    expect(shown).toHaveLength(8);
  });

  test('never ends within a character', () => {
    expect(cut('💾'.repeat(50), 20)).toBe('💾'.repeat(8));
  });

  test('is empty on a terminal of hardly any width', () => {
    expect(cut('a', 2)).toBe('');
  });
});
