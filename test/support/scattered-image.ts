/** A small image with a snapshot, shuffled, with much junk in between: its compaction takes many short rounds. */
import { type ImageBuilder, image } from './image-builder.js';

export function scatteredImage(): ImageBuilder {
  return image({ virtualSize: 64 << 10, seed: 3 })
    .writeRange(0, 40)
    .snapshot('a')
    .writeRange(64, 12)
    .layout({ shuffle: true, junk: 60 });
}
