/** A directory per test that vanishes with its content. */

import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { onTestFinished } from 'vitest';

/** Path of `name` in a new directory, which is removed when the running test ends. */
export function temporaryPath(name: string): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'qcow-compact-'));
  onTestFinished(() => fs.rmSync(directory, { recursive: true, force: true }));
  return path.join(directory, name);
}
