/** What `serve` takes, and what it refuses before any image is opened. */
import { describe, expect, test } from 'vitest';
import { readServeLine } from '../../src/cli/serve-arguments.js';
import { uriOf } from '../../src/cli/serve-place.js';
import { UsageError } from '../../src/cli/usage-error.js';

describe('the place', () => {
  test.each([
    ['--socket a.sock', { socket: 'a.sock' }],
    ['--port 10809', { port: 10809, host: '127.0.0.1' }],
    ['--port 0 --bind ::1', { port: 0, host: '::1' }],
    ['--port 1 --bind 0.0.0.0', { port: 1, host: '0.0.0.0' }],
    ['--port 1 --tls-cert c --tls-key k', { port: 1, host: '127.0.0.1' }],
    ['--port 1 --tls-cert c --tls-key k --tls-ca a', { port: 1, host: '::' }],
    ['--port 1 --tls-cert c --tls-key k --tls-ca a --bind 10.0.0.1', { port: 1, host: '10.0.0.1' }],
  ])('of `%s`: open to all only where clients have certificates, or one says so', (line, place) => {
    expect(readServeLine([...line.split(' '), 'vm.qcow2'])).toMatchObject({ path: 'vm.qcow2', place });
  });
});

test('the other options', () => {
  const line = '--socket s --read-only --export vm --cache-size 16M --json -q --debug ./serve'.split(' ');
  expect(readServeLine(line)).toEqual({
    path: './serve',
    place: { socket: 's' },
    readOnly: true,
    exportName: 'vm',
    tls: null,
    cacheBytes: 16 << 20,
    background: { keepErased: 0, compactAfterBytes: 1 << 30 },
    json: true,
    quiet: true,
    debug: true,
  });
  expect(readServeLine(['a', '--socket', 's'])).toMatchObject({
    exportName: '',
    cacheBytes: undefined,
    json: false,
  });
});

test('the work in the background', () => {
  const line = '--socket s --keep-erased 5 --compact-after 64M --background-rate 10M a'.split(' ');
  expect(readServeLine(line)?.background).toEqual({
    keepErased: 5,
    compactAfterBytes: 64 << 20,
    backgroundBytesPerSecond: 10 << 20,
  });
  expect(readServeLine('--socket s --compact-after 0 a'.split(' '))?.background).toMatchObject({
    compactAfterBytes: 0,
  });
});

test.each([
  ['--socket s', /^no image given/],
  ['--socket s a b', /takes one image/],
  ['a', /either `--socket PATH` or `--port N`/],
  ['--socket s --port 1 a', /either `--socket PATH` or `--port N`/],
  ['--port 65536 a', /at most 65535; got `65536`/],
  ['--port nbd a', /whole number of .*; got `nbd`/],
  ['--socket s --bind ::1 a', /`--bind` goes with `--port`/],
  ['--port 1 --bind= a', /`--bind` must be an address/],
  ['--socket s --tls-cert c --tls-key k a', /`--tls-cert` goes with `--port`/],
  ['--port 1 --tls-cert c a', /needs both `--tls-cert` and `--tls-key`/],
  ['--port 1 --tls-ca c a', /needs both/],
  [`--socket ${'s'.repeat(200)} a`, /at most \d+ bytes; got 200/],
  ['--socket s --cache-size 1X a', /`--cache-size` must be bytes.*got `1X`/],
  ['--socket s --keep-erazed 5 a', /unknown option '--keep-erazed' \(Did you mean --keep-erased\?\)/],
  ['--socket s --frobnicate a', /unknown option '--frobnicate'; see `serve --help`/],
  ['--socket s --keep-erased 1.5 a', /`--keep-erased` must be a whole number of clusters.*got `1.5`/],
  ['--socket s --compact-after 10% a', /`--compact-after` must be bytes.*got `10%`/],
  ['--socket s --background-rate 0 a', /`--background-rate` must be bytes a second, 1 or more.*got `0`/],
  ['--socket s --read-only --keep-erased 5 a', /with `--read-only` nothing is erased or compacted/],
  ['--socket s --read-only --compact-after 0 a', /with `--read-only`/],
  ['--socket', /argument missing/],
])('`%s` is refused', (line, message) => {
  expect(() => readServeLine(line.split(' '))).toThrow(UsageError);
  expect(() => readServeLine(line.split(' '))).toThrow(message);
});

test.each([
  [{ socket: '/tmp/vm.sock' }, null, '', false, 'nbd+unix:///?socket=/tmp/vm.sock'],
  [{ socket: '/tmp/a b&c.sock' }, null, 'my vm', false, 'nbd+unix:///my%20vm?socket=/tmp/a%20b%26c.sock'],
  [{ port: 0, host: '127.0.0.1' }, 4711, '', false, 'nbd://127.0.0.1:4711/'],
  [{ port: 10809, host: '::' }, 10809, 'vm', true, 'nbds://[::]:10809/vm'],
])('%j is %4$s for clients', (place, port, name, withTls, uri) => {
  expect(uriOf(place, port, name, withTls)).toBe(uri);
});
