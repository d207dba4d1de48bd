import { expect, test } from 'vitest';
import { Random } from '../support/random.js';

test('the same seed gives the same numbers, the next seed others', () => {
  const numbers = (seed: number) =>
    Array.from({ length: 8 }, (_, index) => new Random(seed + index * 0).int(1e9));
  expect(numbers(7)).toEqual(numbers(7));
  expect(numbers(7)).not.toEqual(numbers(8));
});

test('int reaches every number below its limit, and never the limit', () => {
  const random = new Random(1);
  const seen = new Set(Array.from({ length: 1000 }, () => random.int(10)));
  expect([...seen].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(random.int(0)).toBe(0);
});

test('between includes both ends', () => {
  const random = new Random(2);
  expect(new Set(Array.from({ length: 100 }, () => random.between(3, 5)))).toEqual(new Set([3, 4, 5]));
});

test('shuffle keeps every item once', () => {
  const items = Array.from({ length: 50 }, (_, index) => index);
  const shuffled = new Random(3).shuffle([...items]);
  expect(shuffled).not.toEqual(items);
  expect([...shuffled].sort((a, b) => a - b)).toEqual(items);
});

test('bytes take all values', () => {
  expect(new Set(new Random(4).bytes(10_000)).size).toBe(256);
});

test('pick from nothing is a mistake in the test', () => {
  expect(() => new Random(5).pick([])).toThrow('at least one item');
});
