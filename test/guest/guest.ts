/** A Linux guest under QEMU, which does what it is told over a serial port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { onTestFinished } from 'vitest';

/** With KVM a guest is faster; there are machines on which /dev/kvm is there and no guest gets on. */
const ACCELERATOR = process.env.GUEST_ACCELERATOR ?? 'tcg';
const BOOT_MS = 60_000;
const COMMAND_MS = 60_000;

/** How the disk hangs there. */
export const BUSES = {
  blk: { device: '/dev/vda', args: ['-device', 'virtio-blk-pci,drive=disk'] },
  scsi: { device: '/dev/sda', args: ['-device', 'virtio-scsi-pci', '-device', 'scsi-hd,drive=disk'] },
} as const;
export type Bus = keyof typeof BUSES;

/** Where the host is busy, an emulated timer comes later than the kernel's check of it has patience for. */
const KERNEL_LINE = 'console=ttyS0 quiet panic=-1 no_timer_check';

/** A command ended with another status than 0: `message` has what it printed. */
export class CommandFailed extends Error {}

/** It does not answer, since it has ended or hangs. */
export class Gone extends Error {}

export class Guest {
  private received = '';
  private ended: string | null = null;
  private wake = (): void => {};
  private readonly closed: Promise<unknown>;

  private constructor(
    private readonly child: ChildProcess,
    private readonly log: string,
    readonly device: string,
  ) {
    let errors = '';
    child.stderr!.setEncoding('utf8').on('data', (text: string) => (errors += text));
    child.stdout!.setEncoding('latin1').on('data', (text: string) => {
      this.received += text;
      this.wake();
    });
    // What is written to one that has gone is said by `ended`.
    child.stdin!.on('error', () => {});
    this.closed = once(child, 'close').then(([status, signal]) => {
      this.ended = `QEMU ended with ${signal ?? status}: ${errors}`;
      this.wake();
    });
  }

  /** Resolves when it takes commands. `log`: where its kernel's messages go. */
  static async boot(options: {
    kernel: string;
    initramfs: string;
    uri: string;
    bus: Bus;
    log: string;
  }): Promise<Guest> {
    const { kernel, initramfs, uri, bus, log } = options;
    const child = spawn(
      'qemu-system-x86_64',
      [
        ...['-accel', ACCELERATOR, '-m', '256', '-nodefaults', '-display', 'none', '-no-reboot'],
        ...['-kernel', kernel, '-initrd', initramfs, '-append', KERNEL_LINE],
        ...['-chardev', `file,id=log,path=${log}`, '-serial', 'chardev:log', '-serial', 'stdio'],
        ...['-drive', `file=${uri},format=raw,if=none,id=disk,discard=unmap,detect-zeroes=off`],
        ...BUSES[bus].args,
      ],
      { stdio: 'pipe' },
    );
    const guest = new Guest(child, log, BUSES[bus].device);
    onTestFinished(() => guest.kill());
    await guest.read(/^<up>\n/m, BOOT_MS);
    return guest;
  }

  /** A line for its shell; what it prints. */
  async run(line: string): Promise<string> {
    this.child.stdin!.write(`${line}\n`);
    const [all, status] = await this.read(/<ended (\d+)>\n/, COMMAND_MS, line);
    const output = all.slice(0, all.lastIndexOf('<ended'));
    if (status !== '0') throw new CommandFailed(`${line}: exit ${status}\n${output}${this.kernelSays()}`);
    return output;
  }

  async powerOff(): Promise<void> {
    this.child.stdin!.write('poweroff -f\n');
    await this.closed;
    if (this.child.exitCode !== 0) throw new Error(`${this.ended}${this.kernelSays()}`);
  }

  /** As if the power failed, but for what the disk has been asked for. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.closed;
  }

  /** The end of it. */
  kernelSays(): string {
    const text = fs.existsSync(this.log) ? fs.readFileSync(this.log, 'latin1') : '';
    return `${text.split('\n').slice(-20).join('\n')}\n`;
  }

  /** Takes what has been printed up to the end of `pattern`; with what is in its brackets. */
  private async read(pattern: RegExp, limitMs: number, what = 'boot'): Promise<[string, ...string[]]> {
    const limit = setTimeout(() => {
      this.ended ??= `no answer in ${limitMs / 1000} s`;
      this.wake();
    }, limitMs);
    try {
      for (;;) {
        const match = pattern.exec(this.received);
        if (match !== null) {
          const all = this.received.slice(0, match.index + match[0].length);
          this.received = this.received.slice(all.length);
          return [all, ...match.slice(1)];
        }
        if (this.ended !== null)
          throw new Gone(`${what}: ${this.ended}\n${this.received}${this.kernelSays()}`);
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    } finally {
      clearTimeout(limit);
    }
  }
}
