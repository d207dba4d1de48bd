/** The line of a terminal that shows a server at work. A file of its own in the bundle: elsewhere ora is not even read. */
import { basename } from 'node:path';
import ora from 'ora';
import type { Traffic } from '../nbd/traffic.js';
import { wantsColor } from './colors.js';
import { printable } from './printable.js';
import { progressLines } from './progress-lines.js';
import { describe } from './serve-report.js';
import { countOf } from './units.js';

const EVERY_MS = 500;

/** Until the answer is called. */
export function showServing(stderr: NodeJS.WriteStream, path: string, traffic: Traffic): () => void {
  const spinner = ora({ stream: stderr, color: wantsColor(stderr) ? 'cyan' : false, discardStdin: false });
  const name = printable(basename(path));
  function show(): void {
    const state = `${countOf(traffic.clients, 'client')}, ${describe(traffic)}`;
    // One line, whatever the height.
    const [line] = progressLines([{ name, state }], 0, 1, { columns: stderr.columns, rows: 2 });
    spinner.text = line!;
  }
  show();
  spinner.start();
  const timer = setInterval(show, EVERY_MS);
  return () => {
    clearInterval(timer);
    spinner.stop();
  };
}
