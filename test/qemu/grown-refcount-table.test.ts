/** A refcount table that QEMU grew lies where only its own tail describes it; it must still get smaller. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { compact } from '../../src/index.js';
import { inspect, minimalClusterCount } from '../support/oracle.js';
import { checkImage, qemuImg, qemuIo, requireQemu } from '../support/qemu.js';

it('an image whose refcount table needs fewer clusters becomes minimal', async () => {
  requireQemu();
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'qcow-compact-'));
  try {
    const image = path.join(directory, 'image.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', image, '12M');
    qemuIo(image, ['write -P 7 0 12M', 'discard 0 9M'], ['-d', 'unmap']);
    const minimal = minimalClusterCount(fs.readFileSync(image));
    await compact(image, { runtimeAsserts: true });
    const after = inspect(fs.readFileSync(image));
    expect(after).toMatchObject({ corruptions: [], leaks: 0, clusterCount: minimal });
    expect(checkImage(image)).toMatchObject({ corruptions: 0, leaks: 0 });
    qemuIo(image, ['read -P 7 9M 3M', 'read -P 0 0 9M']);
    expect((await compact(image)).outcome).toBe('clean');
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
});
