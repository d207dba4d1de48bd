/** Which server `status` and `now` ask, and what is refused before any is looked for. */
import { describe, expect, test } from 'vitest';
import { addressOf, readControlLine } from '../../src/cli/control-arguments.js';
import { uriOf } from '../../src/cli/serve-place.js';
import { UsageError } from '../../src/cli/usage-error.js';

describe('the server', () => {
  test.each([
    ['vm.sock', { path: 'vm.sock' }],
    ['/run/a b/nbd.sock', { path: '/run/a b/nbd.sock' }],
    ['nbd+unix:///?socket=/tmp/vm.sock', { path: '/tmp/vm.sock' }],
    ['nbd+unix:///my%20vm?socket=/tmp/a%20b%26c.sock', { path: '/tmp/a b&c.sock' }],
    ['nbd://127.0.0.1:4711/', { host: '127.0.0.1', port: 4711 }],
    ['nbd://[::1]:4711/vm', { host: '::1', port: 4711 }],
    ['nbd://host', { host: 'host', port: 10809 }],
  ])('%s', (name, address) => {
    expect(addressOf(name)).toEqual(address);
    expect(readControlLine('status', [name])).toMatchObject({ address, name });
  });

  test('is found by what `serve` says of itself', () => {
    const place = { socket: '/tmp/ä b%.sock' };
    expect(addressOf(uriOf(place, null, 'x/y', false))).toEqual({ path: place.socket });
  });
});

test('options', () => {
  expect(readControlLine('now', ['--json', '-q', '--debug', 's'])).toEqual({
    ...{ address: { path: 's' }, name: 's' },
    ...{ json: true, quiet: true, debug: true },
  });
});

test.each([
  ['', /`now` takes the socket of one server; usage: `qcow-compact now SOCKET`/],
  ['a b', /one server/],
  ['nbds://host:1/', /speaks TLS only; send SIGUSR1/],
  ['nbd://:x', /is no URI/],
  ['nbd:///vm', /names no host/],
  ['nbd+unix:///vm', /names no socket/],
  ['--frobnicate s', /unknown option '--frobnicate'; see `now --help`/],
])('`now %s` is refused', (line, message) => {
  const argv = line === '' ? [] : line.split(' ');
  expect(() => readControlLine('now', argv)).toThrow(UsageError);
  expect(() => readControlLine('now', argv)).toThrow(message);
});
