/** What commander finds wrong, in one line: it says `error: unknown option '--foo'`, with a suggestion on a second line. */
import type { CommanderError } from 'commander';
import { UsageError } from './usage-error.js';

/** `help`: where it has no suggestion. */
export function usageOf({ message }: CommanderError, help: string): UsageError {
  const [what = '', ...suggestion] = message.replace(/^error: /, '').split('\n');
  const hint = suggestion.join(' ').trim();
  return new UsageError(hint === '' ? `${what}; ${help}` : `${what} ${hint}`);
}
