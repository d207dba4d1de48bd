/** On what it is measured. */
import os from 'node:os';
import { canDropCaches, hasGnuTime, run } from './host.mjs';

export async function describeHost({ warm }) {
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown processor',
    cpus: os.cpus().length,
    memoryBytes: os.totalmem(),
    kernel: os.release(),
    node: process.version,
    qemu: (await run('qemu-img', ['--version'])).split('\n')[0],
    cache: warm ? 'warm' : canDropCaches ? 'cold (caches dropped)' : 'cold for the images (posix_fadvise)',
    peakMemory: hasGnuTime ? 'GNU time' : 'not measured (no /usr/bin/time)',
  };
}
