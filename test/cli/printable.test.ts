import { expect, test } from 'vitest';
import { printable } from '../../src/cli/printable.js';

test('a plain name, in any script, stays as it is', () => {
  expect(printable('/var/lib/libvirt/images/größe 名前.qcow2')).toBe(
    '/var/lib/libvirt/images/größe 名前.qcow2',
  );
});

test.each([
  ['a\nb', 'a\\nb'],
  ['a\r\tb', 'a\\r\\tb'],
  ['\x1b[2Jx', '\\x1b[2Jx'],
  ['\x7f\x9b', '\\x7f\\x9b'],
  ['a\u202eb', 'a\\u202eb'],
  ['a\u2028b', 'a\\u2028b'],
])('%j cannot steer the terminal', (name, shown) => {
  expect(printable(name)).toBe(shown);
});
