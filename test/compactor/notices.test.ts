import { expect, test } from 'vitest';
import { excessRemains } from '../../src/compactor/notices.js';

test('an excess is called one, with its true cause', () => {
  expect(excessRemains(0)).toEqual([]);
  expect(excessRemains(3)).toEqual([
    '3 clusters beyond the goal remain: no place fits the tables or the compressed data that stand there; ' +
      'the image is valid, only longer than it could be',
  ]);
  expect(excessRemains(1)[0]).toMatch(/^1 cluster beyond the goal remains: /);
});
