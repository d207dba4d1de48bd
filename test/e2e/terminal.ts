/** A terminal for the command line, and what stands on its screen in the end. */
import { spawnSync } from 'node:child_process';
import { CLI } from './cli.js';

export interface Size {
  columns: number;
  rows: number;
}

/** All that it wrote to a terminal of that size, and its status. */
export function inTerminal(
  args: readonly string[],
  { columns, rows }: Size,
): { status: number; output: string } {
  const words = [process.execPath, CLI, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`);
  const command = `stty cols ${columns} rows ${rows}; exec ${words.join(' ')}`;
  // Where it is set there is no display.
  const { CI: _, ...env } = process.env;
  const { status, stdout, error } = spawnSync('script', ['-qec', command, '/dev/null'], {
    encoding: 'utf8',
    // A display that is never closed keeps the process alive.
    timeout: 30_000,
    env: { ...env, TERM: 'xterm' },
  });
  if (error !== undefined || status === null) throw error ?? new Error('script was ended');
  return { status, output: stdout };
}

/** Understands what spinners say: lines, columns, and the clearing of what was there before. */
export class Screen {
  readonly #size: Size;
  /** With what has scrolled away at the top. */
  readonly #lines: string[][] = [[]];
  #row = 0;
  #column = 0;
  /** How often a line was longer than the screen is wide. */
  wraps = 0;
  /** The most lines below each other that were on the screen at once. */
  highest = 0;

  constructor(size: Size) {
    this.#size = size;
  }

  write(output: string): this {
    // eslint-disable-next-line no-control-regex
    for (const [part, parameter, command] of output.matchAll(/\x1b\[([?0-9;]*)([a-zA-Z])|[^]/gu)) {
      if (command !== undefined) this.#control(command, parameter === '' ? 1 : Number(parameter));
      else this.#put(part);
    }
    return this;
  }

  get text(): string {
    return this.#lines
      .map((line) =>
        line
          .map((cell) => cell ?? ' ')
          .join('')
          .trimEnd(),
      )
      .join('\n')
      .trimEnd();
  }

  #put(character: string): void {
    if (character === '\r') this.#column = 0;
    else if (character === '\n') this.#down();
    else {
      if (this.#column >= this.#size.columns) {
        this.wraps++;
        this.#column = 0;
        this.#down();
      }
      this.#lines[this.#row]![this.#column++] = character;
      this.highest = Math.max(this.highest, this.#lines.length - this.#top);
    }
  }

  get #top(): number {
    return Math.max(0, this.#lines.length - this.#size.rows);
  }

  #down(): void {
    this.#row++;
    if (this.#row === this.#lines.length) this.#lines.push([]);
  }

  #control(command: string, count: number): void {
    // What has scrolled away is out of reach.
    if (command === 'A') this.#row = Math.max(this.#top, this.#row - count);
    else if (command === 'G') this.#column = count - 1;
    else if (command === 'K')
      this.#lines[this.#row]!.length = Math.min(this.#lines[this.#row]!.length, this.#column);
  }
}
