/** The lines of a terminal that show all images at work. Pure: every line fits its width, and all of them its height. */

export interface Row {
  /** As it is shown; always one line. */
  name: string;
  state: string;
}

export interface Screen {
  columns: number;
  rows: number;
}

/** Before each line: the spinner's sign and a space, or two spaces. */
const INDENT = 2;

/** Images done of `total`, then a line for each image at work; of one image alone only its own. */
export function progressLines(atWork: readonly Row[], done: number, total: number, screen: Screen): string[] {
  const lines = atWork.map(({ name, state }) => `${name}: ${state}`);
  if (total > 1) lines.unshift(`${done} of ${total} images done`);
  // The last row is the cursor's where what was there before scrolls away.
  const room = Math.max(1, screen.rows - 1);
  const hidden = lines.length - room;
  if (hidden > 0) {
    lines.length = room;
    if (room > 1) lines[room - 1] = `... and ${hidden + 1} more`;
  }
  // A line that ends in the last column may wrap.
  return lines.map((line) => cutTo(line, screen.columns - INDENT - 1));
}

/** At most `columns` wide. What may be wider than one column counts as two: too short is no harm. */
function cutTo(line: string, columns: number): string {
  let width = 0;
  let end = 0;
  for (const character of line) {
    width += character.codePointAt(0)! < FIRST_WIDE ? 1 : 2;
    if (width > columns) return line.slice(0, end);
    end += character.length;
  }
  return line;
}

/** Hangul, the first characters that are two columns wide. */
const FIRST_WIDE = 0x1100;
