import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

/** A directory that is gone after the tests of the file that asked for it. */
export function temporaryDirectory(): {
  path(name: string): string;
  store(name: string, bytes: Uint8Array): string;
} {
  const directory = mkdtempSync(join(tmpdir(), 'qcow-compact-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return {
    path: (name) => join(directory, name),
    store(name, bytes) {
      const path = join(directory, name);
      writeFileSync(path, bytes);
      return path;
    },
  };
}
