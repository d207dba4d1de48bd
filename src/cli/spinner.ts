/** The progress display of a terminal. A file of its own in the bundle too: without a terminal ora is not even read. */
import { basename } from 'node:path';
import ora from 'ora';
import { wantsColor } from './colors.js';
import { printable } from './printable.js';
import { DOING, STOPPING, type ProgressDisplay } from './progress.js';
import { ProgressText } from './progress-text.js';

export function createSpinner(stderr: NodeJS.WriteStream): ProgressDisplay {
  const spinner = ora({
    stream: stderr,
    color: wantsColor(stderr) ? 'cyan' : false,
    // The terminal's Ctrl-C must stay a signal.
    discardStdin: false,
  });
  let text = new ProgressText();
  let name = '';
  let latest = '';
  let isStopping = false;

  function show(): void {
    spinner.text = `${name}: ${isStopping ? `${STOPPING} (${latest})` : latest}`;
  }
  return {
    start(path, mode) {
      text = new ProgressText();
      name = printable(basename(path));
      latest = DOING[mode];
      show();
      spinner.start();
    },
    update(progress) {
      latest = text.describe(progress, process.uptime());
      show();
    },
    stopping() {
      isStopping = true;
      show();
    },
    end() {
      spinner.stop();
    },
  };
}
