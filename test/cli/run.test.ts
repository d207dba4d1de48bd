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
