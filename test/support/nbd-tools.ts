/** Clients of NBD by others, which judge our server; tests that need them fail without them, never skip. */
import { execFile, spawnSync } from 'node:child_process';
import { promisify } from 'node:util';

const TOOLS = ['nbdinfo', 'nbdcopy', 'nbdsh', 'openssl'];
const call = promisify(execFile);

export function requireNbdTools(): void {
  for (const tool of TOOLS) {
    const args = tool === 'openssl' ? ['version'] : ['--version'];
    if (spawnSync(tool, args, { stdio: 'ignore' }).error !== undefined)
      throw new Error(`${tool} not found: install libnbd-bin, python3-libnbd and openssl (Debian, Ubuntu)`);
  }
}

/** Runs to the end beside what else goes on in this process; its stdout. Rejects with its stderr. */
export async function tool(command: string, ...args: string[]): Promise<string> {
  const { stdout } = await call(command, args, { timeout: 60_000, maxBuffer: 64 << 20 });
  return stdout;
}

/** A script of libnbd, with `h` connected to `uri` (and, where it says so, nothing asked yet). */
export function nbdsh(script: string, ...args: string[]): Promise<string> {
  // Debian's Python has the module; another one that comes first in the path has not.
  const program = `import nbd\nh = nbd.NBD()\n${script}`;
  return tool('/usr/bin/python3', '-c', program, ...args);
}
