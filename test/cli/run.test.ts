import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { parseRequest, type RawOptions } from '../../src/cli/arguments.js';
import { run } from '../../src/cli/run.js';
import type { CompactOptions } from '../../src/compactor/types.js';
import { QcowError } from '../../src/errors.js';
import { fakeCheck, fakeCompact, fakeErase, fakePlan } from './fake-results.js';

const engine = vi.hoisted(() => ({ compact: vi.fn(), eraseJunk: vi.fn(), plan: vi.fn(), check: vi.fn() }));
vi.mock('../../src/cli/engine.js', async () => {
  const errors = await import('../../src/errors.js');
  return { ENGINE: { ...engine, QcowError: errors.QcowError } };
});

let stdout = '';
let stderr = '';

beforeEach(() => {
  stdout = '';
  stderr = '';
  vi.resetAllMocks();
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => ((stdout += String(text)), true));
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => ((stderr += String(text)), true));
});
afterEach(() => {
  vi.restoreAllMocks();
});

function runWith(raw: RawOptions, ...paths: string[]): Promise<number> {
  return run(parseRequest(paths, raw));
}

describe('one image', () => {
  test('that is compacted ends with 0 and a line on stdout', async () => {
    engine.compact.mockImplementation((_path: string, options: CompactOptions) => {
      options.onProgress?.({ phase: 'walk', percent: 0, bytesDone: 0, bytesTotal: 0 });
      options.onProgress?.({ phase: 'move', percent: 5, bytesDone: 0, bytesTotal: 9 });
      return Promise.resolve(fakeCompact({ notices: ['little to reclaim: run fstrim'] }));
    });
    expect(await runWith({}, 'a.qcow2')).toBe(0);
    expect(stdout).toBe('a.qcow2: 10.0 GiB -> 4.2 GiB (reclaimed 5.8 GiB, 58%), moved 3.1 GiB in 4.2 s\n');
    expect(stderr).toMatch(
      /^a\.qcow2: compacting\na\.qcow2: done after .*\na\.qcow2: little to reclaim: run fstrim\n$/,
    );
  });

  test('options reach the library', async () => {
    engine.eraseJunk.mockResolvedValue(fakeErase());
    await runWith({ eraseOnly: true, keepErased: '7', punch: true }, 'a.qcow2');
    expect(engine.eraseJunk).toHaveBeenCalledWith(
      'a.qcow2',
      expect.objectContaining({ keepErased: 7, punch: true }),
    );
  });

  test('that is refused gives one line on stderr and the status of its code', async () => {
    engine.compact.mockImplementation((_path: string, options: CompactOptions) => {
      options.onProgress?.({ phase: 'walk', percent: 0, bytesDone: 0, bytesTotal: 0 });
      throw new QcowError('IN_USE', 'another process has the image open');
    });
    expect(await runWith({}, 'a\n.qcow2')).toBe(6);
    expect(stderr).toBe('qcow-compact: a\\n.qcow2: another process has the image open\n');
    expect(stdout).toBe('');
  });

  test('--debug adds the trace', async () => {
    engine.compact.mockRejectedValue(new QcowError('IO', 'no', { cause: new Error('deeper') }));
    await runWith({ debug: true }, 'a');
    expect(stderr).toContain('run.test.ts');
    expect(stderr).toContain('deeper');
  });

  test('a mistake in the program is called one', async () => {
    engine.plan.mockRejectedValue(new TypeError('x is undefined'));
    expect(await runWith({ dryRun: true, quiet: true }, 'a')).toBe(70);
    expect(stderr).toBe(
      'qcow-compact: a: internal error: x is undefined (please report; --debug shows the trace)\n',
    );
  });

  test('--quiet prints nothing on success', async () => {
    engine.plan.mockResolvedValue(fakePlan({ notices: ['x'] }));
    expect(await runWith({ dryRun: true, quiet: true }, 'a')).toBe(0);
    expect(stdout + stderr).toBe('');
  });
});

describe('--check ends as qemu-img check does', () => {
  test.each([
    [fakeCheck(), 0],
    [fakeCheck({ leaks: 1 }), 3],
    [fakeCheck({ corruptions: 1, leaks: 1 }), 2],
  ])('%#', async (result, status) => {
    engine.check.mockResolvedValue(result);
    expect(await runWith({ check: true }, 'a')).toBe(status);
  });

  test('with 1 where the check could not be completed', async () => {
    engine.check.mockRejectedValue(new QcowError('NOT_QCOW2', 'not a qcow2 image'));
    expect(await runWith({ check: true }, 'a')).toBe(1);
  });
});

describe('several images', () => {
  test('one failing does not stop the others; the first failure decides the status', async () => {
    engine.compact
      .mockResolvedValueOnce(fakeCompact())
      .mockRejectedValueOnce(new QcowError('CORRUPT', 'corrupt'))
      .mockRejectedValueOnce(new QcowError('IN_USE', 'in use'))
      .mockResolvedValueOnce(fakeCompact());
    expect(await runWith({}, 'a', 'b', 'c', 'd')).toBe(5);
    expect(stdout.split('\n').map((line) => line.slice(0, 2))).toEqual(['a:', 'd:', '']);
  });

  test('--json prints one document and only errors on stderr', async () => {
    engine.compact.mockResolvedValueOnce(fakeCompact({ notices: ['n'] }));
    engine.compact.mockRejectedValueOnce(new QcowError('IN_USE', 'in use'));
    expect(await runWith({ json: true }, 'a', 'b')).toBe(6);
    expect(JSON.parse(stdout)).toMatchObject({
      exitStatus: 6,
      images: [
        { path: 'a', ok: true, notices: ['n'] },
        { path: 'b', ok: false },
      ],
    });
    expect(stderr).toBe('qcow-compact: b: in use\n');
  });
});

describe('an interrupt', () => {
  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)(
    '%s stops at the next barrier, starts no other image and ends with %d',
    async (name, status) => {
      engine.compact.mockImplementation((_path: string, options: CompactOptions) => {
        process.emit(name, name);
        return Promise.resolve(
          fakeCompact({ outcome: options.signal?.aborted === true ? 'interrupted' : 'compacted' }),
        );
      });
      expect(await runWith({}, 'a', 'b')).toBe(status);
      expect(engine.compact).toHaveBeenCalledTimes(1);
      expect(stderr).toContain('stopping at the next barrier');
      expect(stdout).toContain('what was gained is kept');
    },
  );

  test('before there was a result leaves nothing changed', async () => {
    engine.plan.mockImplementation((_path: string, options: CompactOptions) => {
      process.emit('SIGINT', 'SIGINT');
      options.signal?.throwIfAborted();
    });
    expect(await runWith({ dryRun: true, json: true }, 'a', 'b')).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({
      exitStatus: 130,
      images: [{ outcome: 'interrupted' }, { outcome: 'not-started' }],
    });
  });

  test('that comes too late to matter does not spoil the status', async () => {
    engine.compact.mockImplementation(() => {
      process.emit('SIGINT', 'SIGINT');
      return Promise.resolve(fakeCompact());
    });
    expect(await runWith({}, 'a')).toBe(0);
  });

  test('after the end does not take the status away, a second one ends the process', async () => {
    engine.compact.mockResolvedValue(fakeCompact());
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      expect(await runWith({}, 'a')).toBe(0);
      expect(process.listenerCount(signal)).toBe(1);
      process.emit(signal, signal);
      expect(process.listenerCount(signal)).toBe(0);
    }
  });
});

/** An engine whose runs end when the test says so, in the order in which they were begun. */
class PlannedEngine {
  readonly begun: string[] = [];
  readonly #ends = new Map<
    string,
    { resolve: (result: unknown) => void; reject: (error: unknown) => void }
  >();

  constructor() {
    engine.compact.mockImplementation(
      (path: string, options: CompactOptions) =>
        new Promise((resolve, reject) => {
          this.begun.push(path);
          this.#ends.set(path, { resolve, reject });
          options.onProgress?.({ phase: 'move', percent: 5, bytesDone: 0, bytesTotal: 9 });
          options.signal?.addEventListener('abort', () => {
            const isTime = (options.signal?.reason as Error).name === 'TimeoutError';
            resolve(fakeCompact({ outcome: isTime ? 'out-of-time' : 'interrupted' }));
          });
        }),
    );
  }

  async hasBegun(...paths: string[]): Promise<void> {
    await vi.waitFor(() => expect(this.begun).toEqual(paths));
  }

  async end(path: string, error?: Error): Promise<void> {
    if (error === undefined) this.#ends.get(path)!.resolve(fakeCompact());
    else this.#ends.get(path)!.reject(error);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const names = (text: string) => text.split('\n').map((line) => line.split(':')[0]);

describe('several images at the same time', () => {
  test('are reported whole in the order in which they end; one that fails stops none', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ jobs: '3' }, 'a', 'b', 'c', 'd');
    await planned.hasBegun('a', 'b', 'c');
    await planned.end('b', new QcowError('CORRUPT', 'it is corrupt'));
    await planned.hasBegun('a', 'b', 'c', 'd');
    await planned.end('d');
    await planned.end('a');
    await planned.end('c');
    expect(await status).toBe(5);
    expect(names(stdout)).toEqual(['d', 'a', 'c', '']);
    const others = stderr.split('\n').filter((line) => !/compacting|done after|stopped after/.test(line));
    expect(others).toEqual(['qcow-compact: b: it is corrupt', '']);
  });

  test('are in the order of the command line in the document', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ jobs: '3', json: true }, 'a', 'b', 'c');
    await planned.hasBegun('a', 'b', 'c');
    await planned.end('c');
    await planned.end('a', new QcowError('IN_USE', 'in use'));
    await planned.end('b');
    expect(await status).toBe(6);
    const { images } = JSON.parse(stdout) as { images: { path: string }[] };
    expect(images.map(({ path }) => path)).toEqual(['a', 'b', 'c']);
    expect(images).toMatchObject([{ outcome: 'failed' }, { outcome: 'compacted' }, { outcome: 'compacted' }]);
  });

  test('all hear an interrupt, and no other begins', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ jobs: '2', json: true }, 'a', 'b', 'c', 'd');
    await planned.hasBegun('a', 'b');
    process.emit('SIGINT', 'SIGINT');
    expect(await status).toBe(130);
    expect(planned.begun).toEqual(['a', 'b']);
    expect(JSON.parse(stdout)).toMatchObject({
      exitStatus: 130,
      images: [
        { outcome: 'interrupted' },
        { outcome: 'interrupted' },
        { outcome: 'not-started' },
        { outcome: 'not-started' },
      ],
    });
    expect(stderr).toBe('qcow-compact: stopping at the next barrier\n');
  });

  test('end with the status of an interrupt, whatever failed before it', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ jobs: '2', quiet: true }, 'a', 'b');
    await planned.hasBegun('a', 'b');
    await planned.end('a', new QcowError('CORRUPT', 'it is corrupt'));
    process.emit('SIGINT', 'SIGINT');
    expect(await status).toBe(130);
  });

  test('without --jobs go one by one where nothing says that they lie apart', async () => {
    const planned = new PlannedEngine();
    const status = runWith({}, 'a', 'b');
    await planned.hasBegun('a');
    await planned.end('a');
    await planned.hasBegun('a', 'b');
    await planned.end('b');
    expect(await status).toBe(0);
  });
});

test('without --jobs each file system has one image at work, as far as there are processors', async () => {
  const planned = new PlannedEngine();
  const here = fileURLToPath(import.meta.url);
  // Files of Linux's own file system of processes.
  const status = runWith({}, here, '/proc/self/status', '/proc/self/stat', '/proc/version');
  const first = availableParallelism() > 1 ? [here, '/proc/self/status'] : [here];
  await planned.hasBegun(...first);
  await planned.end(here);
  process.emit('SIGINT', 'SIGINT');
  expect(await status).toBe(130);
  expect(planned.begun.length).toBe(2);
});

describe('--max-time', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  const pass = (hours: number) => vi.advanceTimersByTime(hours * 3_600_000);

  test('stops what is at work, begins no other, and ends with 75', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ jobs: '2', maxTime: '2h' }, 'a', 'b', 'c');
    await planned.hasBegun('a', 'b');
    pass(1.9);
    expect(stderr).not.toContain('time is up');
    pass(0.2);
    expect(await status).toBe(75);
    expect(planned.begun).toEqual(['a', 'b']);
    expect(stdout).toMatch(/^a: out of time: .*\nb: out of time: .*\nc: not begun, the time was over\n$/);
    expect(stderr).toContain('qcow-compact: time is up, stopping at the next barrier\n');
  });

  test('has outcomes of its own in the document, and nothing on stderr', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ jobs: '1', maxTime: '1h', json: true }, 'a', 'b');
    await planned.hasBegun('a');
    pass(2);
    expect(await status).toBe(75);
    expect(JSON.parse(stdout)).toMatchObject({
      exitStatus: 75,
      images: [
        { outcome: 'out-of-time', ok: false, error: null },
        { outcome: 'no-time-left', ok: false, error: null },
      ],
    });
    expect(stderr).toBe('');
  });

  test('does not hide that another image failed', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ jobs: '2', maxTime: '1h', quiet: true }, 'a', 'b');
    await planned.hasBegun('a', 'b');
    await planned.end('b', new QcowError('CORRUPT', 'it is corrupt'));
    pass(2);
    expect(await status).toBe(5);
  });

  test('that is not reached changes nothing, and keeps no timer', async () => {
    engine.compact.mockResolvedValue(fakeCompact());
    expect(await runWith({ maxTime: '1d' }, 'a')).toBe(0);
    expect(stdout).not.toContain('time');
    expect(vi.getTimerCount()).toBe(0);
  });

  test('is not what an interrupt before it is', async () => {
    const planned = new PlannedEngine();
    const status = runWith({ maxTime: '1h' }, 'a');
    await planned.hasBegun('a');
    process.emit('SIGTERM', 'SIGTERM');
    pass(2);
    expect(await status).toBe(143);
  });

  test('ends what only reads, before there is a result', async () => {
    let hasBegun = false;
    engine.check.mockImplementation((_path: string, { signal }: CompactOptions) => {
      hasBegun = true;
      return new Promise((_, reject) =>
        signal?.addEventListener('abort', () => reject(signal.reason as Error)),
      );
    });
    const status = runWith({ check: true, maxTime: '1h' }, 'a');
    await vi.waitFor(() => expect(hasBegun).toBe(true));
    pass(2);
    expect(await status).toBe(75);
    expect(stdout).toBe('a: out of time before anything was changed\n');
  });
});

test('--limit-rate is one limiter for all images, with a part of a round for each', async () => {
  engine.compact.mockResolvedValue(fakeCompact());
  await runWith({ jobs: '4', limitRate: '50M' }, 'a', 'b');
  const limiters = engine.compact.mock.calls.map((call) => (call[1] as CompactOptions).limiter);
  expect(limiters[0]).toMatchObject({ bytesPerSecond: 50 * 2 ** 20, roundBytes: 50 * 2 ** 20 });
  expect(limiters[1]).toBe(limiters[0]);
});

test('--threshold reaches the library, and a gain passed up is a success', async () => {
  engine.compact.mockResolvedValue(fakeCompact({ outcome: 'below-threshold', bytesLeftToReclaim: 1024 }));
  expect(await runWith({ threshold: '10%' }, 'a')).toBe(0);
  expect(engine.compact).toHaveBeenCalledWith('a', expect.objectContaining({ threshold: { percent: 10 } }));
  expect(stdout).toContain('a: 4.2 GiB, left alone: 1.0 KiB (<0.1%) to reclaim is below the threshold\n');
});
