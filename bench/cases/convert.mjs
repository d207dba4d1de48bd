/** Compaction against `qemu-img convert` into a second file and a sync; on request against the bare loop too. */
import { metadataBytes } from '../metadata.mjs';
import { against, figuresOf, peakOf, secondsOf } from '../measure.mjs';
import { BareLoop } from './bare-loop.mjs';

/** `convertOptions` for qemu-img; `rival` names it; `withBare`: the bare loop, where the host cannot share blocks. */
export async function againstConvert(
  bench,
  name,
  master,
  { convertOptions = [], rival = 'convert + sync', withBare = false } = {},
) {
  const bare = withBare ? await BareLoop.for(bench, master) : null;
  const sides = {
    convert: () => bench.convert(convertOptions),
    ...(bare?.isFair && { bare: () => bare.run() }),
    tool: async (nth) => {
      const sample = await bench.compact();
      await bench.checkResult(bench.copy, nth === 0 ? master : null);
      return sample;
    },
  };
  const samples = await bench.alternate(name, sides, { prepare: () => bench.prepareCold(master) });
  const rivals = [against(rival, samples.tool, samples.convert)];
  if (samples.bare) rivals.push(against(`bare loop, ${bare.mode}`, samples.tool, samples.bare));
  return {
    case: name,
    seconds: secondsOf(samples.tool),
    peakBytes: peakOf(samples.tool),
    rivals,
    ...figuresOf(samples.tool),
    metadataBytes: metadataBytes(master),
    ...(bare && { dataBytesMoved: bare.dataBytes }),
    samples,
  };
}
