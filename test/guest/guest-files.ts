/** Files in a guest of which the host knows what they contain, and what has become of them when the disk was lost. */
import { createHash } from 'node:crypto';
import { Random } from '../support/random.js';
import type { Guest } from './guest.js';

const MIB = 1 << 20;
const LONGEST = 4 * MIB;
const VERSIONS = 4096;
/** Odd, so that no two contents have a block in common. */
const APART = 1031;

/** Each content is a stretch of this, which is a file in the guest's memory. */
export const CONTENTS = new Random(1).bytes(LONGEST + VERSIONS * APART);
export const CONTENTS_FILE = 'contents';

/** While there is /tmp/beside. */
const BESIDE = `while [ -e /tmp/beside ] && dd if=/${CONTENTS_FILE} of=/mnt/beside bs=64k count=30 conv=fsync && rm /mnt/beside`;

interface Content {
  version: number;
  lengthBytes: number;
}

/** In the directory where the disk is mounted. */
export class GuestFiles {
  /** As they are on the disk for certain. */
  private readonly files = new Map<string, Content>();
  /** Changed since, or being changed: whatever they contain. */
  private readonly uncertain = new Map<string, Content | null>();
  private made = 0;
  private versions = 0;
  readonly done = { written: 0, overwritten: 0, removed: 0, trims: 0, checked: 0 };

  constructor(private readonly random: Random) {}

  get names(): string[] {
    return [...this.files.keys()];
  }

  get bytes(): number {
    return [...this.files.values()].reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  }

  /** A new one; on the disk with the next `flush`, or at once. */
  async write(guest: Guest, lengthBytes: number, { atOnce }: { atOnce: boolean }): Promise<void> {
    const name = `f${++this.made}`;
    await this.put(guest, name, lengthBytes, atOnce ? 'conv=fsync' : '', atOnce);
    this.done.written++;
  }

  /** Where it is, by something else. */
  async overwrite(guest: Guest, name: string): Promise<void> {
    await this.put(guest, name, this.files.get(name)!.lengthBytes, 'conv=notrunc,fsync', true);
    this.done.overwritten++;
  }

  private async put(
    guest: Guest,
    name: string,
    lengthBytes: number,
    options: string,
    certain: boolean,
  ): Promise<void> {
    const content = { version: ++this.versions % VERSIONS, lengthBytes };
    this.uncertain.set(name, content);
    await guest.run(
      `dd if=/${CONTENTS_FILE} of=/mnt/${name} bs=64k iflag=skip_bytes,count_bytes status=none ` +
        `skip=${content.version * APART} count=${lengthBytes} ${options}`,
    );
    if (certain) this.settle(name);
  }

  async remove(guest: Guest, names: readonly string[]): Promise<void> {
    for (const name of names) this.uncertain.set(name, null);
    await guest.run(`cd /mnt && rm ${names.join(' ')} && cd / && sync /mnt`);
    for (const name of names) this.settle(name);
    this.done.removed += names.length;
  }

  async flush(guest: Guest): Promise<void> {
    await guest.run('sync -f /mnt');
    for (const name of [...this.uncertain.keys()]) this.settle(name);
  }

  /** The bytes that the guest says it has told the disk of. */
  async trim(guest: Guest): Promise<number> {
    const [, bytes] = /: (\d+) bytes/.exec(await guest.run('fstrim -v /mnt'))!;
    this.done.trims++;
    return Number(bytes);
  }

  /** Something of all that, beside writes that nobody looks after, until `isEnough`. */
  async workOn(guest: Guest, isEnough = (): boolean => false): Promise<void> {
    await guest.run(`touch /tmp/beside; ${BESIDE}; do :; done 2>/dev/null &`);
    while (!isEnough()) {
      const lengthBytes = this.random.between(1, 700_000);
      const [name] = this.names.length > 5 ? [this.random.pick(this.names)] : [];
      const kind = this.random.int(100);
      if (kind < 5) await this.trim(guest);
      else if (name === undefined || kind < 45) await this.write(guest, lengthBytes, { atOnce: true });
      else if (kind < 75) await this.overwrite(guest, name);
      else await this.remove(guest, [name]);
    }
    await guest.run('rm /tmp/beside; wait');
  }

  /** What is not as it has to be, of what is mounted now. What was uncertain is removed. */
  async wrong(guest: Guest): Promise<string[]> {
    // From the disk, not from memory.
    await guest.run('echo 3 > /proc/sys/vm/drop_caches');
    const sums = await guest.run('cd /mnt; ls | grep ^f | xargs -r md5sum; cd /');
    const found = new Map([...sums.matchAll(/^(\w{32}) {2}(\S+)$/gm)].map(([, sum, name]) => [name!, sum!]));
    const wrong: string[] = [];
    for (const [name, content] of this.files) {
      if (this.uncertain.has(name)) continue;
      if (found.get(name) !== md5(content))
        wrong.push(`${name}: ${found.has(name) ? 'other content' : 'gone'}`);
    }
    for (const name of found.keys())
      if (!this.files.has(name) && !this.uncertain.has(name)) wrong.push(`${name}: is there`);
    this.done.checked += found.size;
    if (this.uncertain.size > 0)
      await guest.run(`cd /mnt; rm -f ${[...this.uncertain.keys()].join(' ')}; cd /; sync /mnt`);
    for (const name of this.uncertain.keys()) this.files.delete(name);
    this.uncertain.clear();
    return wrong;
  }

  private settle(name: string): void {
    const content = this.uncertain.get(name)!;
    this.uncertain.delete(name);
    if (content === null) this.files.delete(name);
    else this.files.set(name, content);
  }
}

function md5({ version, lengthBytes }: Content): string {
  return createHash('md5')
    .update(CONTENTS.subarray(version * APART, version * APART + lengthBytes))
    .digest('hex');
}
