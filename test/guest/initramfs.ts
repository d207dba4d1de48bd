/** The guest's root file system: an archive that the kernel unpacks into its memory (cpio, "newc"). */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import type { Parts } from './parts.js';

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;

/** Loads the modules, then does what the second serial port says, line by line; the first one is the kernel's. */
const init = (modules: string[]): string => `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
${modules.map((module) => `insmod ${module}`).join('\n')}
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
echo '<up>'
# In the same shell each, so that what one sets the next one has.
while IFS= read -r line; do
  eval "$line" </dev/null
  echo "<ended $?>"
done
`;

/** `files`: more of them, by their paths in the guest. */
export function buildInitramfs(
  { busybox, modules, programs }: Parts,
  files: Record<string, Uint8Array>,
): Buffer {
  const archive = new Archive();
  for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp', 'mnt']) archive.directory(name);
  archive.add('bin/busybox', fs.readFileSync(busybox));
  const names = modules.map((module) => `/lib/modules/${path.basename(module)}`);
  for (const [i, module] of modules.entries()) archive.add(names[i]!, fs.readFileSync(module));
  archive.add('init', Buffer.from(init(names)));
  for (const [name, program] of programs) {
    archive.add(`sbin/${name}`, fs.readFileSync(program));
    for (const library of librariesOf(program)) archive.add(library, fs.readFileSync(library));
  }
  for (const [name, content] of Object.entries(files)) archive.add(name, content);
  return archive.end();
}

/** The loader among them, where the program looks for them. */
function librariesOf(program: string): string[] {
  const listed = execFileSync('ldd', [program], { encoding: 'utf8' });
  return [...listed.matchAll(/(\/\S+) \(0x/g)].map(([, file]) => file!);
}

class Archive {
  private readonly parts: Buffer[] = [];
  private readonly names = new Set<string>();

  directory(name: string): void {
    this.entry(name, DIRECTORY, new Uint8Array(0));
  }

  add(name: string, content: Uint8Array): void {
    const relative = name.replace(/^\//, '');
    const parent = path.posix.dirname(relative);
    if (parent !== '.') this.parents(parent);
    this.entry(relative, PROGRAM, content);
  }

  end(): Buffer {
    this.entry('TRAILER!!!', 0, new Uint8Array(0));
    return Buffer.concat(this.parts);
  }

  private parents(name: string): void {
    const parent = path.posix.dirname(name);
    if (parent !== '.') this.parents(parent);
    this.directory(name);
  }

  /** Once for each name. */
  private entry(name: string, mode: number, content: Uint8Array): void {
    if (this.names.has(name)) return;
    this.names.add(name);
    // Inode, mode, owner, group, links, time, length, device (2), device that it is (2), length of the name, checksum.
    const fields = [this.names.size, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
    const header = fields.map((field) => field.toString(16).padStart(8, '0')).join('');
    this.parts.push(padded(Buffer.from(`070701${header}${name}\0`)), padded(content));
  }
}

/** To a multiple of 4, as all in the archive is. */
function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
