/** Colour only where a person looks: chalk is not even loaded for a file, a pipe or NO_COLOR. */

export interface Colors {
  good(text: string): string;
  bad(text: string): string;
}

export const NO_COLORS: Colors = { good: (text) => text, bad: (text) => text };

/** https://no-color.org: any value but the empty one turns colour off. */
export function wantsColor(stream: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): boolean {
  return stream.isTTY === true && (env.NO_COLOR ?? '') === '' && env.TERM !== 'dumb';
}

export async function colorsFor(stream: { isTTY?: boolean }): Promise<Colors> {
  if (!wantsColor(stream)) return NO_COLORS;
  const { Chalk } = await import('chalk');
  const chalk = new Chalk({ level: 1 });
  return { good: (text) => chalk.green(text), bad: (text) => chalk.red(text) };
}
