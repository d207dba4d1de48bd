/** The progress display of a terminal. A file of its own in the bundle too: without a terminal ora is not even read. */
import { basename } from 'node:path';
import ora from 'ora';
import type { Stopped } from '../compactor/stop.js';
import type { Request } from './arguments.js';
import { wantsColor } from './colors.js';
import { printable } from './printable.js';
import { DOING, STOPPING, type ImageProgress, type ProgressDisplay } from './progress.js';
import { progressLines, type Row } from './progress-lines.js';
import { ProgressText } from './progress-text.js';

/** Of a terminal that does not know its height. */
const USUAL_ROWS = 24;

export function createSpinner(
  stderr: NodeJS.WriteStream,
  { mode, paths }: Pick<Request, 'mode' | 'paths'>,
): ProgressDisplay {
  const spinner = ora({
    stream: stderr,
    color: wantsColor(stderr) ? 'cyan' : false,
    // The terminal's Ctrl-C must stay a signal.
    discardStdin: false,
  });
  /** In the order in which they were begun. */
  const atWork = new Set<Row>();
  let done = 0;
  let stopped: Stopped | undefined;

  function show(): void {
    const rows = [...atWork].map(({ name, state }) => ({
      name,
      state: stopped === undefined ? state : `${STOPPING[stopped]} (${state})`,
    }));
    const screen = { columns: stderr.columns, rows: stderr.rows > 0 ? stderr.rows : USUAL_ROWS };
    spinner.text = progressLines(rows, done, paths.length, screen).join('\n  ');
  }
  function begin(path: string): ImageProgress {
    const text = new ProgressText();
    const row: Row = { name: printable(basename(path)), state: DOING[mode] };
    atWork.add(row);
    show();
    if (!spinner.isSpinning) {
      stderr.on('resize', show);
      spinner.start();
    }
    return {
      update(progress) {
        row.state = text.describe(progress, process.uptime());
        show();
      },
      end() {
        atWork.delete(row);
        done++;
        // What is printed while others are at work goes above their lines: ora sees to that.
        if (atWork.size === 0) close();
        else show();
      },
    };
  }
  function close(): void {
    stderr.off('resize', show);
    spinner.stop();
  }
  return {
    begin,
    stopping(by) {
      stopped = by;
      show();
    },
    close,
  };
}
