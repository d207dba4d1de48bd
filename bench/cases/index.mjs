/** The cases in their order: which image each needs, and what it is measured against. */
import { againstConvert } from './convert.mjs';
import { ImageSet } from './image-set.mjs';
import { many } from './many.mjs';
import { nothingToDo } from './nothing-to-do.mjs';
import { serve } from './serve.mjs';
import { small, version } from './start.mjs';

const MOST_IMAGES = 200;

const CASES = {
  half: async (bench, images) =>
    againstConvert(bench, 'half', await images.shared('half'), { withBare: true }),
  clean: async (bench, images) => nothingToDo(bench, 'clean', await images.shared('half')),
  snapshots: (bench, images) =>
    images.with('snapshots', (image) =>
      againstConvert(bench, 'snapshots', image, { rival: 'convert + sync (snapshots lost)' }),
    ),
  tail: (bench, images) => images.with('tail', (image) => againstConvert(bench, 'tail', image)),
  compressed: (bench, images) =>
    images.with('compressed', (image) =>
      againstConvert(bench, 'compressed', image, { convertOptions: ['-c'], rival: 'convert -c + sync' }),
    ),
  metadata: (bench, images) =>
    images.with('metadata', (image) => nothingToDo(bench, 'metadata', image, { rounds: bench.runs })),
  small: (bench, images) => images.with('small', (image) => small(bench, image)),
  many: (bench, images) => images.with('many', (image) => many(bench, image, countFor(images.sizeBytes))),
  serve: async (bench, images) => serve(bench, await images.shared('half'), images.sizeBytes),
  version: (bench) => version(bench),
};

export const CASE_NAMES = Object.keys(CASES);

/** Runs the cases; calls `found` with each result as soon as it is there. */
export async function runCases(bench, options, found) {
  const images = new ImageSet(bench, options);
  for (const name of options.cases)
    for (const result of [await CASES[name](bench, images)].flat()) found(result);
}

/** As many as `--size` is large: all of them for 4 GiB. */
function countFor(sizeBytes) {
  return Math.max(2, Math.min(MOST_IMAGES, Math.floor((sizeBytes / 2 ** 32) * MOST_IMAGES)));
}
