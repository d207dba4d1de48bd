/**
 * A line chart as SVG: panels one below the other over one x axis. The same data make the same bytes; text and lines
 * take the colours of the reader's light or dark page.
 */

const WIDTH = 720;
const PANEL_HEIGHT = 220;
const LEFT = 76;
const RIGHT = 24;
const TOP = 56;
const GAP = 44;
const BOTTOM = 64;
const PLOT_WIDTH = WIDTH - LEFT - RIGHT;

const STYLE = `
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .tick, .note { fill: #59636e; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .axis { stroke: #59636e; stroke-width: 1; }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
  .range { stroke-width: 1.5; opacity: 0.6; }
  .panel0 { stroke: #0969da; } .dot0 { fill: #0969da; }
  .panel1 { stroke: #bc4c00; } .dot1 { fill: #bc4c00; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .tick, .note { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .axis { stroke: #9198a1; }
    .panel0 { stroke: #4493f8; } .dot0 { fill: #4493f8; }
    .panel1 { stroke: #f0883e; } .dot1 { fill: #f0883e; }
  }
`;

/**
 * `{ title, note, x: { label, values }, panels: [{ label, values, lowest?, highest? }] }`: one value of each panel for
 * each x. All axes begin at 0, so that flat looks flat.
 */
export function lineChart({ title, note = '', x, panels }) {
  const xAxis = axisTo(Math.max(...x.values), 8);
  const height = TOP + panels.length * PANEL_HEIGHT + (panels.length - 1) * GAP + BOTTOM;
  const xAt = (value) => LEFT + (value / xAxis.end) * PLOT_WIDTH;
  const bottom = TOP + panels.length * PANEL_HEIGHT + (panels.length - 1) * GAP;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escaped(title)}">`,
    `<title>${escaped(title)}</title>`,
    `<style>${STYLE}</style>`,
    text(LEFT, 26, title, 'title'),
    ...panels.flatMap((panel, nth) => panelParts(panel, nth, { x, xAxis, xAt })),
    ...xAxis.ticks.map((tick) => text(xAt(tick), bottom + 20, xAxis.label(tick), 'tick', 'middle')),
    text(LEFT + PLOT_WIDTH / 2, bottom + 42, x.label, '', 'middle'),
    text(WIDTH - RIGHT, bottom + 58, note, 'note', 'end'),
    '</svg>',
  ];
  return `${parts.filter((part) => part !== '').join('\n')}\n`;
}

function panelParts({ label, values, lowest = values, highest = values }, nth, { x, xAxis, xAt }) {
  const top = TOP + nth * (PANEL_HEIGHT + GAP);
  const bottom = top + PANEL_HEIGHT;
  const yAxis = axisTo(Math.max(...highest), 5);
  const yAt = (value) => bottom - (value / yAxis.end) * PANEL_HEIGHT;
  const points = values.map((value, i) => `${place(xAt(x.values[i]))},${place(yAt(value))}`);
  const series = nth % 2;
  return [
    text(LEFT, top - 8, label, ''),
    ...yAxis.ticks.map((tick) => line(LEFT, yAt(tick), LEFT + PLOT_WIDTH, yAt(tick), 'grid')),
    ...yAxis.ticks.map((tick) => text(LEFT - 10, yAt(tick) + 4, yAxis.label(tick), 'tick', 'end')),
    ...xAxis.ticks.map((tick) => line(xAt(tick), bottom, xAt(tick), bottom + 5, 'axis')),
    line(LEFT, bottom, LEFT + PLOT_WIDTH, bottom, 'axis'),
    line(LEFT, top, LEFT, bottom, 'axis'),
    ...values.map((_, i) =>
      lowest[i] === highest[i]
        ? ''
        : line(xAt(x.values[i]), yAt(lowest[i]), xAt(x.values[i]), yAt(highest[i]), `range panel${series}`),
    ),
    `<polyline class="line panel${series}" points="${points.join(' ')}"/>`,
    ...points.map((point) => {
      const [cx, cy] = point.split(',');
      return `<circle class="dot${series}" cx="${cx}" cy="${cy}" r="4"/>`;
    }),
  ];
}

/** Round steps from 0 to the first one that is not below `most`: 1, 2, 2.5 or 5 times a power of ten. */
export function axisTo(most, steps) {
  if (!(most > 0)) return axis(1, 1);
  const power = 10 ** Math.floor(Math.log10(most / steps));
  const step = [1, 2, 2.5, 5, 10]
    .map((factor) => factor * power)
    .find((size) => size * steps >= most * 0.9999);
  return axis(step, Math.ceil(most / step - 1e-9));
}

function axis(step, count) {
  const ticks = Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(12)));
  // As many decimals on all ticks as one of them needs; thousands are set apart.
  const decimals = Math.max(...ticks.map((tick) => String(tick).split('.')[1]?.length ?? 0));
  const label = (tick) =>
    tick.toLocaleString('en-GB', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return { end: ticks.at(-1), ticks, label };
}

function line(x1, y1, x2, y2, name) {
  return `<line class="${name}" x1="${place(x1)}" y1="${place(y1)}" x2="${place(x2)}" y2="${place(y2)}"/>`;
}

function text(x, y, content, name, anchor = 'start') {
  if (content === '') return '';
  const attributes = `${name === '' ? '' : ` class="${name}"`}${anchor === 'start' ? '' : ` text-anchor="${anchor}"`}`;
  return `<text x="${place(x)}" y="${place(y)}"${attributes}>${escaped(content)}</text>`;
}

function place(value) {
  return String(Number(value.toFixed(1)));
}

function escaped(words) {
  return words.replace(
    /[&<>"]/g,
    (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[sign],
  );
}
