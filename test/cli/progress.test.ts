import { Writable } from 'node:stream';
import { expect, test, vi } from 'vitest';
import { wantsColor } from '../../src/cli/colors.js';
import { canDraw, createPlain } from '../../src/cli/progress.js';

const XTERM = { TERM: 'xterm' };

test('a spinner is drawn on a terminal only', () => {
  expect(canDraw({ isTTY: true, columns: 80 }, XTERM)).toBe(true);
  expect(canDraw({ columns: 80 }, XTERM)).toBe(false);
});

test('a terminal of 0 columns gets plain lines: the spinner never returned on one', () => {
  expect(canDraw({ isTTY: true, columns: 0 }, XTERM)).toBe(false);
});

test('a dumb terminal gets plain lines, and so does continuous integration', () => {
  expect(canDraw({ isTTY: true, columns: 80 }, { TERM: 'dumb' })).toBe(false);
  expect(canDraw({ isTTY: true, columns: 80 }, { ...XTERM, CI: 'true' })).toBe(false);
});

test('colour needs a terminal and no NO_COLOR; an empty NO_COLOR counts as none', () => {
  expect(wantsColor({ isTTY: true }, {})).toBe(true);
  expect(wantsColor({ isTTY: true }, { NO_COLOR: '' })).toBe(true);
  expect(wantsColor({ isTTY: true }, { NO_COLOR: '1' })).toBe(false);
  expect(wantsColor({}, {})).toBe(false);
});

test('a long silent start is announced on a log too', () => {
  vi.useFakeTimers();
  const written: string[] = [];
  const log = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      written.push(chunk.toString());
      done();
    },
  });
  const progress = createPlain(log, 'check').begin('a.qcow2');
  vi.advanceTimersByTime(1999);
  expect(written).toEqual([]);
  vi.advanceTimersByTime(2);
  progress.end(true);
  expect(written).toEqual(['a.qcow2: checking\n', expect.stringMatching(/^a\.qcow2: done after /)]);
  vi.useRealTimers();
});
