/** The judge of the fuzzer finds fault with engines that deserve it. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { transformSync } from 'esbuild';
import { describe, expect, test } from 'vitest';
import { compactDevice } from '../../src/compactor/compact.js';
import { MemoryDevice } from '../../src/device/memory-device.js';
import { QcowError } from '../../src/errors.js';
import { image } from '../support/image-builder.js';
import { measureAllocations } from './allocations.js';
import { type Engine, judge } from './verdict.js';

const CONTENT = new Uint8Array(512).fill(0xab);
const valid = image({ clusterBits: 9, virtualSize: 64 << 10 })
  .write(0, CONTENT)
  .write(3)
  .layout({ junk: 5 })
  .build();
const noImage = new Uint8Array(2000).fill(7);

/** An engine that does something else before or instead of compacting. */
function flawed(act: (device: MemoryDevice) => Promise<unknown>): Engine {
  return async (device, options) => {
    await act(device);
    return compactDevice(device, options);
  };
}

test('an image that is right, and one that is rightly refused', async () => {
  expect(await judge(valid)).toEqual({ outcome: 'compacted', message: null, flaw: null });
  expect(await judge(noImage)).toMatchObject({ outcome: 'refused', flaw: null });
});

describe('an engine is found at fault that', () => {
  const cases: [string, Uint8Array, RegExp, Engine][] = [
    [
      'throws a mistake of its own',
      noImage,
      /^it threw TypeError/,
      flawed(() => Promise.reject(new TypeError('x is undefined'))),
    ],
    [
      'says more than one line',
      noImage,
      /^it said/,
      flawed(() => Promise.reject(new QcowError('IO', 'a\nb'))),
    ],
    ['says NaN', noImage, /^it said/, flawed(() => Promise.reject(new QcowError('IO', `at ${Number('x')}`)))],
    [
      'writes before it refuses',
      noImage,
      /but changed/,
      flawed((device) => device.write(new Uint8Array(1), 9)),
    ],
    [
      'believes a size from the file',
      noImage,
      /^it allocated/,
      flawed(() => Promise.resolve(new Float64Array(50_000_000))),
    ],
    [
      'loses data',
      valid,
      /the guest view changed/,
      async (device, options) => {
        const result = await compactDevice(device, options);
        await device.write(new Uint8Array(512), Buffer.from(device.bytes()).indexOf(CONTENT));
        return result;
      },
    ],
  ];
  test.each(cases)('%s', async (_, bytes, words, engine) => {
    expect((await judge(bytes, { engine })).flaw).toMatch(words);
  });

  test('compacts what is damaged', async () => {
    const damaged = Uint8Array.from(valid);
    // A refcount of 0 for the header.
    const block = Buffer.from(valid).readBigUInt64BE(Number(Buffer.from(valid).readBigUInt64BE(48)));
    damaged.fill(0, Number(block), Number(block) + 2);
    expect(await judge(damaged)).toMatchObject({ outcome: 'refused', flaw: null });
    const blind: Engine = (device) =>
      compactDevice(device, {}).catch(() => compactDevice(new MemoryDevice(valid), {}));
    expect((await judge(damaged, { engine: blind })).flaw).toMatch(/^it compacted a damaged image/);
  });
});

test('allocations are counted, of every kind, and only while asked', async () => {
  const { allocated } = await measureAllocations(() => {
    const made = [
      new Uint8Array(1000),
      new Float64Array(1000),
      new Uint32Array([1, 2]),
      Buffer.allocUnsafeSlow(5),
    ];
    // Another view of the same bytes is none.
    made.push(new Uint8Array(made[0]!.buffer));
    return Promise.resolve(made);
  });
  expect(allocated).toBe(1000 + 8000 + 8 + 5);
  expect(Uint8Array.name).toBe('Uint8Array');
  expect(Object.getPrototypeOf(new Uint8Array(1))).toBe(Uint8Array.prototype);
});

test('a hang ends the process, and is named', () => {
  const source = readFileSync(new URL('watchdog.ts', import.meta.url), 'utf8');
  const { code } = transformSync(source, { loader: 'ts', format: 'esm' });
  const hanging = `const dog = new Watchdog('the loop', 300); dog.next(42); setTimeout(() => { for (;;); }, 50);`;
  const { signal, stderr } = spawnSync('node', ['--input-type=module', '-e', `${code}\n${hanging}`], {
    encoding: 'utf8',
    timeout: 30_000,
    killSignal: 'SIGINT',
  });
  expect(stderr).toContain('hung: the loop 42');
  expect(signal).toBe('SIGKILL');
});
