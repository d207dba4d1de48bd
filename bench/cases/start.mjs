/** What little work costs, all warm, against `node -e 0`. */
import { against, figuresOf, NODE, peakOf, ROOT, secondsOf, TOOL } from '../measure.mjs';
import { metadataBytes } from '../metadata.mjs';
import { engineSources, loadedModules } from '../modules.mjs';
import { SHORT_RUNS } from './nothing-to-do.mjs';

/** `--version`, and which modules are loaded for it. */
export async function version(bench) {
  const rounds = bench.runs * SHORT_RUNS;
  await bench.warmUp();
  const sides = {
    node: () => bench.timed(NODE, ['-e', '0']),
    tool: () => bench.timed(NODE, [TOOL, '--version']),
  };
  const samples = await bench.alternate('version', sides, { rounds, prepare: () => undefined });
  const loaded = (option) => loadedModules([TOOL, option], ROOT, bench.workDir);
  const modules = { version: loaded('--version'), help: loaded('--help') };
  return {
    case: 'version',
    seconds: secondsOf(samples.tool),
    peakBytes: peakOf(samples.tool),
    rivals: [against('node -e 0', samples.tool, samples.node)],
    loaded: modules,
    engineLoaded: engineSources(modules.version).concat(engineSources(modules.help)),
    samples,
  };
}

/** A small image with something to compact in it. */
export async function small(bench, master) {
  const rounds = 2 * bench.runs * SHORT_RUNS;
  await bench.warmUp();
  const sides = {
    node: () => bench.timed(NODE, ['-e', '0']),
    tool: async (nth) => {
      const sample = await bench.compact();
      await bench.checkResult(bench.copy, nth === 0 ? master : null);
      return sample;
    },
  };
  const samples = await bench.alternate('small', sides, {
    rounds,
    prepare: () => bench.restore(master),
  });
  return {
    case: 'small',
    seconds: secondsOf(samples.tool),
    peakBytes: peakOf(samples.tool),
    rivals: [against('node -e 0', samples.tool, samples.node)],
    ...figuresOf(samples.tool),
    metadataBytes: metadataBytes(master),
    samples,
  };
}
