/**
 * Bundles what tsc has checked. The library is one ES module. The command line is a few CommonJS files, which
 * Node starts 10 ms earlier than modules: each is read when it is needed.
 */
import { writeFileSync } from 'node:fs';
import { build } from 'esbuild';

const common = {
  bundle: true,
  platform: 'node',
  target: 'node20',
  // Native code, looked for at run time.
  external: ['fs-ext', 'koffi'],
  sourcemap: 'linked',
  logLevel: 'warning',
};

await build({ ...common, entryPoints: ['src/index.ts'], format: 'esm', outdir: 'dist' });

/** Files of the command line; they load each other by these names. */
const PARTS = ['main', 'run', 'spinner', 'serve', 'serve-line', 'control'];
await build({
  ...common,
  entryPoints: PARTS.map((part) => `src/cli/${part}.ts`),
  format: 'cjs',
  outdir: 'dist/cli',
  // Names stay, so that a trace can be read.
  minifyWhitespace: true,
  minifySyntax: true,
  alias: { 'node:child_process': './src/cli/no-child-process.ts' },
  define: { 'import.meta.url': '__filename' },
  supported: { 'dynamic-import': false },
  plugins: [{ name: 'parts', setup: (build) => build.onResolve({ filter: /^\.\// }, keepParts) }],
});
writeFileSync('dist/cli/package.json', '{ "type": "commonjs" }\n');

function keepParts({ path, kind }) {
  const isPart = PARTS.some((part) => path === `./${part}.js`);
  return isPart && kind === 'dynamic-import' ? { path, external: true } : undefined;
}
