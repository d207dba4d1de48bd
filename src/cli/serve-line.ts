/**
 * The line of a terminal that shows a server at work, and that of who waits for it. A file of its own in the bundle: elsewhere
 * ora is not even read.
 */
import { basename } from 'node:path';
import ora, { type Ora } from 'ora';
import { wantsColor } from './colors.js';
import { printable } from './printable.js';
import { progressLines } from './progress-lines.js';
import { type StatusFacts, trafficLine } from './serve-status.js';
import { countOf, humanBytes } from './units.js';

const EVERY_MS = 500;

/** Until the answer is called. */
export function showServing(stderr: NodeJS.WriteStream, status: () => StatusFacts): () => void {
  const spinner = createLine(stderr);
  const show = (): void => {
    const facts = status();
    const state = [countOf(facts.clients, 'client'), trafficLine(facts), ...imageState(facts)].join(', ');
    spinner.text = oneLine(stderr, basename(facts.path), state);
  };
  show();
  spinner.start();
  const timer = setInterval(show, EVERY_MS);
  return () => {
    clearInterval(timer);
    spinner.stop();
  };
}

/** While a server compacts. */
export function showWaiting(
  stderr: NodeJS.WriteStream,
  name: string,
): { update: (facts: StatusFacts) => void; end: () => void } {
  const spinner = createLine(stderr);
  spinner.text = oneLine(stderr, name, 'compacting');
  spinner.start();
  return {
    update(facts) {
      spinner.text = oneLine(stderr, basename(facts.path), ['compacting', ...figuresOf(facts)].join(', '));
    },
    end: () => void spinner.stop(),
  };
}

function imageState(facts: StatusFacts): string[] {
  const figures = figuresOf(facts);
  return facts.image?.isCompacting === true ? ['compacting', ...figures] : figures;
}

function figuresOf({ image }: StatusFacts): string[] {
  if (image === null) return [];
  return [`file ${humanBytes(image.fileBytes)}`, `${humanBytes(image.junkBytes)} junk`];
}

function createLine(stderr: NodeJS.WriteStream): Ora {
  return ora({ stream: stderr, color: wantsColor(stderr) ? 'cyan' : false, discardStdin: false });
}

/** Whatever the height. */
function oneLine({ columns }: NodeJS.WriteStream, name: string, state: string): string {
  return progressLines([{ name: printable(name), state }], 0, 1, { columns, rows: 2 })[0]!;
}
