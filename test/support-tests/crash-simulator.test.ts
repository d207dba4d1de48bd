import { describe, expect, test } from 'vitest';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { RecordingDevice, type Operation } from '../../src/device/recording-device.js';
import { crashStates, windows, type CrashOptions } from '../support/crash-simulator.js';
import { Random } from '../support/random.js';

const SECTOR = 512;

/** Sectors, each filled with one letter: `ab` is 1024 bytes. A dot is a sector of zeroes. */
function sectors(letters: string): Uint8Array {
  const bytes = new Uint8Array(letters.length * SECTOR);
  for (let index = 0; index < letters.length; index++) {
    const value = letters[index] === '.' ? 0 : letters.charCodeAt(index);
    bytes.fill(value, index * SECTOR, (index + 1) * SECTOR);
  }
  return bytes;
}

/** The inverse; `?` for a sector of mixed content. */
function letters(bytes: Uint8Array): string {
  let result = '';
  for (let at = 0; at < bytes.length; at += SECTOR) {
    const sector = bytes.subarray(at, at + SECTOR);
    const first = sector[0] ?? 0;
    if (sector.length < SECTOR || sector.some((byte) => byte !== first)) result += '?';
    else result += first === 0 ? '.' : String.fromCharCode(first);
  }
  return result;
}

const write = (content: string, sector: number): Operation => ({
  kind: 'write',
  offset: sector * SECTOR,
  bytes: sectors(content),
});
const punch = (sector: number, count: number): Operation => ({
  kind: 'punch',
  offset: sector * SECTOR,
  length: count * SECTOR,
});
const truncate = (count: number): Operation => ({ kind: 'truncate', length: count * SECTOR });
const flush: Operation = { kind: 'flush' };

/** Every different state, sorted. */
function states(initial: string, log: Operation[], options: Partial<CrashOptions> = {}): string[] {
  const seen = new Set<string>();
  const all = crashStates(sectors(initial), log, { seed: 1, subsetsPerWindow: 3000, ...options });
  for (const { bytes } of all) seen.add(letters(bytes));
  return [...seen].sort();
}

describe('which crash states are possible', () => {
  test('without operations only the initial image', () => {
    expect(states('ab', [])).toEqual(['ab']);
    expect(states('ab', [flush, flush])).toEqual(['ab']);
  });

  test('a write of two sectors is torn in every way', () => {
    expect(states('abc', [write('XY', 1)])).toEqual(['aXY', 'aXc', 'abY', 'abc']);
  });

  test('two writes persist in any order', () => {
    expect(states('ab', [write('X', 0), write('Y', 1)])).toEqual(['XY', 'Xb', 'aY', 'ab']);
  });

  test('a sector written twice shows any of its versions', () => {
    expect(states('a', [write('X', 0), write('Y', 0)])).toEqual(['X', 'Y', 'a']);
  });

  test('a write before a flush is never missing after it, one behind it may be', () => {
    expect(states('ab', [write('X', 0), flush, write('Y', 1)])).toEqual(['XY', 'Xb', 'ab']);
  });

  test('a write behind a flush is never there without what the flush made durable', () => {
    const log = [write('X', 0), write('Y', 1), flush, write('Z', 2), flush, write('W', 0)];
    const all = states('abc', log);
    expect(all).toEqual(['WYZ', 'XYZ', 'XYc', 'Xbc', 'aYc', 'abc']);
  });

  test('a punch acts as zeroes per sector', () => {
    expect(states('abc', [punch(1, 2)])).toEqual(['a..', 'a.c', 'ab.', 'abc']);
  });

  test('a punch beyond the end changes nothing', () => {
    expect(states('a', [punch(1, 5)])).toEqual(['a']);
    expect(states('a', [punch(0, 5)])).toEqual(['.', 'a']);
  });

  test('a truncation persists or not', () => {
    expect(states('abc', [truncate(1)])).toEqual(['a', 'abc']);
    expect(states('abc', [write('X', 0), truncate(1)])).toEqual(['X', 'Xbc', 'a', 'abc']);
  });

  test('what a truncation cut off reads as zeroes when the file grows again', () => {
    expect(states('abc', [truncate(1), truncate(3)])).toEqual(['a', 'a..', 'abc']);
  });

  test('a write behind a truncation may persist without it', () => {
    expect(states('abc', [truncate(1), write('X', 1)])).toEqual(['a', 'a.', 'aX', 'aXc', 'abc']);
  });

  test('what was written before a truncation that persists is gone with the rest', () => {
    expect(states('abc', [write('X', 2), truncate(1), truncate(3)])).toEqual(['a', 'a..', 'abX', 'abc']);
  });

  test('a write beyond the end may leave the length, or end it at any of its sectors', () => {
    expect(states('a', [write('XYZ', 1)])).toEqual(
      ['a', 'aX', 'aXY', 'aXYZ', 'a.Y', 'a..Z', 'aX.Z', 'a.YZ', 'aX..', 'aXY.', 'a.Y.', 'a...'].sort(),
    );
  });

  test('data written beyond the end shows when another operation grows the file', () => {
    expect(states('a', [write('X', 1), truncate(3)])).toContain('aX.');
    expect(states('a', [write('X', 1), truncate(3)])).toContain('a..');
  });

  test('a file that ends within a sector grows by the rest of that sector', () => {
    const initial = new Uint8Array(700).fill(1);
    const log: Operation[] = [{ kind: 'write', offset: 700, bytes: new Uint8Array(100).fill(2) }];
    const seen = new Set<string>();
    for (const { bytes } of crashStates(initial, log, { seed: 1, subsetsPerWindow: 100 })) {
      seen.add(`${String(bytes.length)} ${String(bytes.lastIndexOf(1))} ${String(bytes.lastIndexOf(2))}`);
    }
    expect([...seen].sort()).toEqual(['700 699 -1', '800 699 -1', '800 699 799']);
  });

  test('a truncation within a sector zeroes the rest of it', () => {
    const log: Operation[] = [
      { kind: 'truncate', length: 100 },
      { kind: 'truncate', length: 512 },
    ];
    const seen = new Set<string>();
    for (const { bytes } of crashStates(sectors('a'), log, { seed: 1, subsetsPerWindow: 100 })) {
      seen.add(`${String(bytes.length)} ${String(bytes.lastIndexOf(97))}`);
    }
    expect([...seen].sort()).toEqual(['100 99', '512 511', '512 99']);
  });

  test('a sector written in parts shows the parts in their order only', () => {
    const log: Operation[] = [
      { kind: 'write', offset: 0, bytes: Uint8Array.of(1) },
      { kind: 'write', offset: 1, bytes: Uint8Array.of(2) },
    ];
    const seen = new Set<string>();
    for (const { bytes } of crashStates(sectors('.'), log, { seed: 1, subsetsPerWindow: 100 })) {
      seen.add(`${String(bytes[0])}${String(bytes[1])}`);
    }
    expect([...seen].sort()).toEqual(['00', '10', '12']);
  });
});

describe('states at random', () => {
  test('find every state that there is, and no other', () => {
    const log = [write('XY', 1), truncate(2), punch(0, 1), write('Z', 2)];
    const every = states('abcd', log);
    const found = new Set<string>();
    // Fewer than there are combinations, so that they come at random.
    for (let seed = 1; seed <= 300; seed++) {
      for (const state of states('abcd', log, { seed, subsetsPerWindow: 20 })) found.add(state);
    }
    expect([...found].sort()).toEqual(every);
  });

  test('are the same for the same seed, and others for another one', () => {
    const random = new Random(5);
    const log: Operation[] = [];
    for (let index = 0; index < 10; index++) log.push(write('QRSTUVWX', random.int(50)));
    const run = (seed: number): string[] => {
      const all = crashStates(sectors('a'.repeat(60)), log, { seed, subsetsPerWindow: 50 });
      return Array.from(all, ({ label, bytes }) => `${label} ${letters(bytes)}`);
    };
    expect(run(3)).toEqual(run(3));
    expect(run(4)).not.toEqual(run(3));
  });

  test('keep what was durable, and show nothing that was never written', () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = new Random(seed);
      const initial = 'a'.repeat(20);
      const log: Operation[] = [];
      for (let window = 0; window < 4; window++) {
        for (let index = random.int(6); index >= 0; index--) {
          log.push(write('BCDEFG'.slice(0, 1 + random.int(6)), random.int(14)));
        }
        log.push(flush);
      }
      // Versions that a sector may show, by window, from a model of a line each.
      const durable = [...initial];
      const allowed: Set<string>[][] = [];
      for (const { operations } of windows(log)) {
        const versions = durable.map((letter) => new Set([letter]));
        for (const operation of operations) {
          if (operation.kind !== 'write') continue;
          [...letters(operation.bytes)].forEach((letter, index) => {
            versions[operation.offset / SECTOR + index]?.add(letter);
            durable[operation.offset / SECTOR + index] = letter;
          });
        }
        allowed.push(versions);
      }
      for (const { label, bytes } of crashStates(sectors(initial), log, { seed, subsetsPerWindow: 100 })) {
        const window = /window (\d+)/.exec(label)?.[1];
        if (window === undefined) continue;
        const versions = allowed[Number(window)] ?? [];
        const wrong = [...letters(bytes)].findIndex((letter, index) => versions[index]?.has(letter) !== true);
        expect(wrong, label).toBe(-1);
      }
    }
  });

  test('come at 20,000 a second or more on an image of 100 KiB', () => {
    const random = new Random(1);
    const log: Operation[] = [];
    for (let index = 0; index < 20; index++) {
      log.push({ kind: 'write', offset: random.int(190) * SECTOR, bytes: random.bytes(4096) });
    }
    const began = performance.now();
    let count = 0;
    for (const { bytes } of crashStates(random.bytes(102_400), log, { seed: 1, subsetsPerWindow: 20_000 })) {
      count += bytes.length > 0 ? 1 : 0;
    }
    expect(count / ((performance.now() - began) / 1000)).toBeGreaterThan(20_000);
  });
});

describe('the log', () => {
  test('is divided at its flushes', () => {
    const [first, second, third] = [write('X', 0), truncate(1), punch(0, 1)];
    expect(windows([flush, first, second, flush, flush, third])).toEqual([
      { first: 1, operations: [first, second] },
      { first: 5, operations: [third] },
    ]);
  });

  test('every prefix of its operations comes first in its window', () => {
    const log = [write('X', 0), write('Y', 1), flush, write('Z', 2)];
    const all = Array.from(
      crashStates(sectors('abc'), log, { seed: 1, subsetsPerWindow: 0 }),
      ({ label, bytes }) => `${label}: ${letters(bytes)}`,
    );
    expect(all).toEqual([
      'initial image: abc',
      'window 0, operations up to 0: Xbc',
      'window 0, operations up to 1: XYc',
      'window 1, operations up to 3: XYZ',
    ]);
  });

  test('ends, replayed whole, in what the device below holds', async () => {
    for (let seed = 1; seed <= 50; seed++) {
      const random = new Random(seed);
      const initial = random.bytes(random.int(5000));
      const memory = new MemoryDevice(initial);
      const device = new RecordingDevice(memory);
      for (let step = 0; step < 40; step++) {
        const offset = random.int(6000);
        const kind = random.int(6);
        if (kind < 3) await device.write(random.bytes(random.int(1500)), offset);
        else if (kind === 3) await device.punch(offset, random.int(1500));
        else if (kind === 4) await device.truncate(offset);
        else await device.flush();
      }
      let last: Uint8Array = initial;
      for (const { label, bytes } of crashStates(initial, device.log, { seed, subsetsPerWindow: 3 })) {
        if (/initial|up to/.test(label)) last = bytes.slice();
      }
      expect(last, `seed ${String(seed)}`).toEqual(memory.bytes());
    }
  });
});
