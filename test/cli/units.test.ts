import { expect, test } from 'vitest';
import { countOf, humanBytes, humanDuration, humanPercent, humanRate } from '../../src/cli/units.js';

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

test.each([
  [0, '0 B'],
  [512, '512 B'],
  [1023, '1023 B'],
  [1024, '1.0 KiB'],
  [1536, '1.5 KiB'],
  [MIB - 1, '1.0 MiB'],
  [10 * GIB, '10.0 GiB'],
  [1023.96 * GIB, '1.0 TiB'],
  [1024 * GIB, '1.0 TiB'],
  [2 ** 53, '8.0 PiB'],
  [2 ** 62, '4096.0 PiB'],
])('%d bytes read as %s', (bytes, text) => {
  expect(humanBytes(bytes)).toBe(text);
});

test('a rate is bytes per second', () => {
  expect(humanRate(512 * MIB)).toBe('512.0 MiB/s');
});

test.each([
  [0, '0 ms'],
  [0.0123, '12 ms'],
  [0.9994, '999 ms'],
  [0.9996, '1.0 s'],
  [4.2, '4.2 s'],
  [9.96, '10 s'],
  [42.4, '42 s'],
  [59.6, '1 min 0 s'],
  [185, '3 min 5 s'],
  [3599.7, '1 h 0 min'],
  [7380, '2 h 3 min'],
])('%d seconds read as %s', (seconds, text) => {
  expect(humanDuration(seconds)).toBe(text);
});

test.each([
  [0, 100, '0%'],
  [0, 0, '0%'],
  [58, 100, '58%'],
  [1, 1000, '<1%'],
  [999, 1000, '>99%'],
  [100, 100, '100%'],
])('%d of %d reads as %s', (part, whole, text) => {
  expect(humanPercent(part, whole)).toBe(text);
});

test('one is singular', () => {
  expect([countOf(0, 'cluster'), countOf(1, 'cluster'), countOf(2, 'cluster')]).toEqual([
    '0 clusters',
    '1 cluster',
    '2 clusters',
  ]);
});
