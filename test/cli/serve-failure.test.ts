/** A server that fails once it listens, or as it leaves, ends all the same. */
import { once } from 'node:events';
import net from 'node:net';
import { afterEach, expect, test, vi } from 'vitest';
import type { Listening, listenAt } from '../../src/cli/serve-place.js';
import { serve } from '../../src/cli/serve.js';
import { QcowError } from '../../src/errors.js';
import { image } from '../support/image-builder.js';
import { temporaryDirectory } from '../support-tests/temporary-directory.js';

/** Done once the server listens. */
const then = vi.hoisted(() => ({ run: (listening: Listening): Promise<Listening> | Listening => listening }));

vi.mock('../../src/cli/serve-place.js', async (original) => {
  const actual = await original<{ listenAt: typeof listenAt }>();
  const listen: typeof listenAt = async (...args) => then.run(await actual.listenAt(...args));
  return { ...actual, listenAt: listen };
});

const directory = temporaryDirectory();

afterEach(() => vi.restoreAllMocks());

test('listener and clients are closed, and the failure is told', async () => {
  const socket = directory.path('vm.sock');
  const path = directory.store('vm.qcow2', image({}).writeRange(0, 3).build());
  let closed: Promise<unknown> = Promise.resolve();
  then.run = async () => {
    const client = net.connect({ path: socket });
    closed = once(client, 'close');
    // Of the greeting: it is let in.
    await once(client, 'data');
    throw new QcowError('CANNOT_LISTEN', 'the path cannot be looked at');
  };
  let told = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    told += String(text);
    return true;
  });
  expect(await serve(['--socket', socket, '--quiet', path])).toBe(11);
  expect(told).toContain('the path cannot be looked at');
  await closed;
  const [refused] = (await once(net.connect({ path: socket }), 'error')) as [NodeJS.ErrnoException];
  expect(refused.code).toBe('ENOENT');
});
