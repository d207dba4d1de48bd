import { describe, expect, test } from 'vitest';
import { UsageError } from '../../src/cli/arguments.js';
import { resultDocument, usageDocument } from '../../src/cli/json.js';
import { failedOutcome, finishedOutcome, stoppedOutcome, type Outcome } from '../../src/cli/outcome.js';
import { fakeCheck, fakeCompact, fakeErase, fakePlan, fakeRepair } from './fake-results.js';
import { ENTRY_NAMES } from './json-names.js';

interface Parsed {
  version: number;
  images: Record<string, unknown>[];
  error: unknown;
  exitStatus: number;
}

function parsed(outcomes: Outcome[], exitStatus = 0): Parsed {
  return JSON.parse(resultDocument(outcomes, exitStatus)) as Parsed;
}

describe('the names of an entry are stable', () => {
  test.each([
    { mode: 'compact', result: fakeCompact() },
    { mode: 'erase', result: fakeErase() },
    { mode: 'plan', result: fakePlan() },
    { mode: 'check', result: fakeCheck() },
    { mode: 'repair', result: fakeRepair() },
  ] as const)('$mode', (finished) => {
    const [entry] = parsed([finishedOutcome('a.qcow2', finished, 0)]).images;
    expect(Object.keys(entry ?? {}).sort()).toEqual([...ENTRY_NAMES[finished.mode]].sort());
  });
});

test('a document holds every image, errors included, in order', () => {
  const failure = { code: 'IN_USE', message: 'in use', exitStatus: 6 };
  const document = parsed(
    [
      finishedOutcome('a', { mode: 'compact', result: fakeCompact() }, 0),
      failedOutcome('b', 'compact', failure),
      stoppedOutcome('c', 'compact', { by: 'interrupted', status: 130 }, false),
    ],
    130,
  );
  expect(document).toMatchObject({
    version: 1,
    error: null,
    exitStatus: 130,
    images: [
      {
        path: 'a',
        ok: true,
        mode: 'compact',
        outcome: 'compacted',
        error: null,
        bytesMoved: 3.1 * 1024 ** 3,
      },
      { path: 'b', ok: false, mode: 'compact', outcome: 'failed', error: failure },
      { path: 'c', ok: false, mode: 'compact', outcome: 'not-started', error: null },
    ],
  });
});

test('a usage error is a document too', () => {
  expect(JSON.parse(usageDocument(new UsageError('no image given')))).toEqual({
    version: 1,
    images: [],
    error: { code: 'USAGE', message: 'no image given', exitStatus: 64 },
    exitStatus: 64,
  });
});
