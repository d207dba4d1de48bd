/** Counts what is allocated outside the JavaScript heap: where a hostile size would show first. */

const TYPED_ARRAYS = [
  'ArrayBuffer',
  'Uint8Array',
  'Uint16Array',
  'Uint32Array',
  'Int32Array',
  'Float64Array',
  'BigUint64Array',
] as const;
const BUFFERS = ['alloc', 'allocUnsafe', 'allocUnsafeSlow'] as const;

/** Bytes of all typed arrays and buffers that `work` made, whether they were freed meanwhile or not. */
export async function measureAllocations<T>(
  work: () => Promise<T>,
): Promise<{ allocated: number; result: T }> {
  let allocated = 0;
  const globals = globalThis as unknown as Record<string, new (...args: unknown[]) => object>;
  const originals = TYPED_ARRAYS.map((name) => [name, globals[name]!] as const);
  for (const [name, original] of originals) {
    globals[name] = new Proxy(original, {
      construct(target, args, newTarget) {
        const bytesEach = (target as unknown as { BYTES_PER_ELEMENT?: number }).BYTES_PER_ELEMENT ?? 1;
        const [length] = args as unknown[];
        // Before it is made: what is too large throws.
        if (typeof length === 'number') allocated += length * bytesEach;
        else if (Array.isArray(length)) allocated += length.length * bytesEach;
        return Reflect.construct(target, args, newTarget === globals[name] ? target : newTarget) as object;
      },
    });
  }
  const buffers = Buffer as unknown as Record<string, (length: number) => Buffer>;
  const makers = BUFFERS.map((name) => [name, buffers[name]!] as const);
  for (const [name, original] of makers) {
    buffers[name] = (length) => {
      allocated += length;
      return original(length);
    };
  }
  try {
    return { result: await work(), allocated };
  } finally {
    for (const [name, original] of originals) globals[name] = original;
    for (const [name, original] of makers) buffers[name] = original;
  }
}
